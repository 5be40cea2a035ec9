"""Model cards say what was measured, and measuring leaves the weights alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from SAHLoRALib.adapters import AdapterConfig, adapter_state, attach, load_adapter_state
from SAHLoRALib.card import make_card
from SAHLoRALib.card_text import card_text
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.cli import main
from SAHLoRALib.cohort import case_digests, scan_digests
from SAHLoRALib.errors import CaseError, ModelError
from SAHLoRALib.measured import headline
from SAHLoRALib.metrics import dice
from SAHLoRALib.provenance import table_digest, used_scans
from SAHLoRALib.runs import load_segmenter
from SAHLoRALib.slices import volume_ml
from SAHLoRALib.statistics import bootstrap_mean
from SAHLoRALib.training_config import TrainingConfig
from SAHLoRALib.validation import FLAT, THRESHOLDS
from SAHLoRALib.weights import ModelInfo, load_network, read_info, record_metrics, save_adapter
from tiny_cohort import save_cohort, save_tiny_base

BUNDLED = Path(__file__).resolve().parents[2] / "Resources" / "Models"


@pytest.fixture
def base(tmp_path: Path) -> ModelInfo:
    return save_tiny_base(tmp_path / "models")


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    return save_cohort(tmp_path / "held-out", (2, 4, 6))


def some_adapter(base: ModelInfo) -> ModelInfo:
    """An adapter that changes the base a little."""
    config = AdapterConfig(method="cp-lora", rank=2)
    network, _ = load_network(base)
    attach(network, config)
    state = {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)) for name, tensor in adapter_state(network).items()
    }
    network, _ = load_network(base)
    load_adapter_state(network, config, state)
    return save_adapter(network, config, base.path.with_name("asah.safetensors"), base=base)


def test_a_card_holds_the_figures_of_a_case_table_and_the_header_too(tmp_path, base, cases):
    measured = make_card(base, None, {"three heads": CaseTable.read(cases)}, tmp_path / "card.md")
    held = read_info(base.path).metrics["held_out"]["three heads"]
    assert held["patients"] == 3
    dice = held["strata"]["all"]["dice"]
    assert 0 < dice["mean"] <= 1 and dice["n"] == 3
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "## three heads" in text and f"{dice['mean']:.2f}" in text and "Not a medical device" in text
    assert headline(measured.metrics) == (dice["mean"], "on three heads")


def test_recording_figures_leaves_weights_and_digest_as_they_are(base):
    before = load_network(base)[0].state_dict()
    again = record_metrics(base, {"dice": 0.5})
    assert again.digest == base.digest and read_info(base.path).metrics == {"dice": 0.5}
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_network(again)[0].state_dict().items())


def test_figures_are_not_recorded_into_a_changed_file(base):
    other = save_tiny_base(base.path.parent / "other", threshold_hu=60.0)
    base.path.write_bytes(other.path.read_bytes())
    with pytest.raises(ModelError, match="digest"):
        record_metrics(base, {})


def test_an_adapter_is_measured_before_and_after(tmp_path, base, cases):
    adapter = some_adapter(base)
    make_card(adapter, base, {"heads": CaseTable.read(cases)}, tmp_path / "card.md", commands="sahlora train cases.csv")
    held = read_info(adapter.path).metrics["held_out"]["heads"]
    assert set(held) == {"before", "before_threshold", "after", "cases_digest"}
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "cp-lora, rank 2" in text and "alone, on the same cases" in text and "sahlora train cases.csv" in text


def test_the_base_is_measured_with_a_threshold_from_the_adapters_validation_cases_too(tmp_path, base, cases, capsys):
    adapter = some_adapter(base)
    judged_by = save_cohort(tmp_path / "validation", (5, 7), ("v0", "v1"))
    assert main(["card", str(adapter.path), "--cases", str(cases), "--title", "heads", "--validation", str(judged_by)]) == 0
    held = read_info(adapter.path).metrics["held_out"]["heads"]
    assert held["before_threshold"] == 0.5 and held["chosen_threshold"] in THRESHOLDS
    text = adapter.path.with_suffix(".md").read_text(encoding="utf-8")
    assert "with its own threshold of 0.5" in text and f"with a threshold of {held['chosen_threshold']:g}, chosen on the same validation" in text
    # Soft Dice knows no threshold.
    assert held["chosen"]["strata"]["all"]["soft_dice"] == held["before"]["strata"]["all"]["soft_dice"]
    capsys.readouterr()
    assert main(["card", str(base.path), "--cases", str(cases), "--validation", str(judged_by)]) == 2 and "is no adapter" in capsys.readouterr().err


def test_an_adapters_gain_is_measured_patient_by_patient(tmp_path, base, cases):
    adapter = some_adapter(base)
    table = CaseTable.read(cases)
    make_card(adapter, base, {"heads": table}, tmp_path / "card.md", validation=CaseTable.read(save_cohort(tmp_path / "v", (5, 7), ("v0", "v1"))))
    held = read_info(adapter.path).metrics["held_out"]["heads"]
    settings = TrainingConfig()
    dices = []
    for segmenter in (load_segmenter(adapter, base, settings), load_segmenter(base, None, settings)):
        dices.append([dice(segmenter.segment(ct).mask, reference) for ct, reference in (case.read() for case in table)])
    gaps = np.subtract(*dices)
    told = held["before"]["difference"]["all"]["dice"]
    expected = bootstrap_mean(gaps)
    assert told["n"] == 3 and [told[key] for key in ("mean", "low", "high", "median")] == pytest.approx(
        [expected.value, expected.low, expected.high, np.median(gaps)], abs=1e-4
    )
    assert set(held["chosen"]["difference"]["all"]) == {"dice", "absolute_error_ml"} and "difference" not in held["after"]
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    shown = f"| Dice, adapter − base | {told['mean']:+.2f} ({told['low']:.2f} to {told['high']:.2f}) [{told['median']:+.2f}] |"
    assert shown in text and text.count("| absolute error (mL), adapter − base |") == 2 and text.count("; last, each patient's own difference:") == 2


def with_heads(cases: Path, *heads: str) -> CaseTable:
    """The table with a column head, as `sahlora phantom` writes it."""
    lines = cases.read_text(encoding="utf-8").splitlines()
    cases.write_text("\n".join(f"{line},{head}" for line, head in zip(lines, ("head", *heads), strict=True)) + "\n", encoding="utf-8")
    return CaseTable.read(cases)


@pytest.mark.parametrize(
    ("heads", "counted", "told"),
    [
        (("h1", "h2", "h1"), 2, "By the case table 2 heads were made into 3 patients. Intervals take patients as independent"),
        (("h1", "h1", "h1"), 1, "one head was made into all 3 patients"),
        (("h1", "h2", "h3"), 3, ""),
        (("h1", "", "h1"), None, ""),  # not said of each: nothing is made up
    ],
)
def test_a_card_says_where_its_patients_share_heads(tmp_path, base, cases, heads, counted, told):
    make_card(base, None, {"heads": with_heads(cases, *heads)}, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert read_info(base.path).metrics["held_out"]["heads"].get("heads") == counted
    assert told in text and ("likely too narrow" in text) == bool(told)


def best_threshold(segmenter, cases):
    """What a user would choose who tries every threshold: near the best Dice the least median error, then the nearest to 0.5 (all bleed)."""
    pairs = [case.read() for case in CaseTable.read(cases)]
    dices, errors = [], []
    for threshold in THRESHOLDS:
        at = segmenter.with_config(replace(segmenter.config, threshold=threshold))
        masks = [(at.segment(ct).mask, reference, ct) for ct, reference in pairs if reference.any()]
        dices.append(np.mean([dice(mask, reference) for mask, reference, _ in masks]))
        errors.append(np.median([abs(volume_ml(mask, ct) - volume_ml(reference, ct)) for mask, reference, ct in masks]))
    good = [n for n in range(len(THRESHOLDS)) if dices[n] >= max(dices) - FLAT]
    return THRESHOLDS[min(good, key=lambda n: (round(errors[n], 6), abs(THRESHOLDS[n] - 0.5)))]


def test_validation_cases_without_blood_choose_no_threshold(tmp_path, base, capsys):
    clean = save_cohort(tmp_path / "clean", (0, 0), ("v0", "v1"))
    assert main(["card", str(base.path), "--validation", str(clean), "--choose-threshold"]) == 2
    assert "None of the 2 validation cases has blood" in capsys.readouterr().err and read_info(base.path).threshold == base.threshold


def test_an_adapters_threshold_is_chosen_anew_on_validation_cases(tmp_path, base, cases, capsys):
    adapter = some_adapter(base)
    former = {"held_out": {"measured before": {}}, "clean_scans": {"a scan": {"after": 1.0}}}
    record_metrics(replace(adapter, threshold=0.999), former)  # nothing is above it
    judged_by = save_cohort(tmp_path / "validation", (5, 7), ("v0", "v1"))
    given = ["card", str(adapter.path), "--cases", str(cases), "--title", "heads", "--choose-threshold"]
    assert main(given) == 2 and "--validation" in capsys.readouterr().err
    assert read_info(adapter.path).threshold == 0.999
    assert main([*given, "--validation", str(judged_by)]) == 0
    again = read_info(adapter.path)
    assert again.threshold == best_threshold(load_segmenter(adapter, base, TrainingConfig()), judged_by) != 0.999
    assert again.digest == adapter.digest and again.training["threshold_chosen"]["cases"] == 2
    assert again.metrics["held_out"]["heads"]["after"]["strata"]["all"]["dice"]["mean"] > 0
    assert list(again.metrics["held_out"]) == ["heads"] and "clean_scans" not in again.metrics  # those were of the former threshold
    text = adapter.path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"probability: {again.threshold:g}, chosen anew on 2 validation cases" in text and "(weights)" in text


def test_a_bases_threshold_is_chosen_anew_on_validation_cases(tmp_path, base, cases):
    record_metrics(replace(base, threshold=0.999), {})
    judged_by = save_cohort(tmp_path / "validation", (5, 7), ("v0", "v1"))
    assert main(["card", str(base.path), "--cases", str(cases), "--title", "heads", "--validation", str(judged_by), "--choose-threshold"]) == 0
    again = read_info(base.path)
    assert again.threshold == best_threshold(load_segmenter(base, None, TrainingConfig()), judged_by) != 0.999
    assert again.digest == base.digest and again.training["threshold_chosen"]["cases"] == 2
    assert again.metrics["held_out"]["heads"]["strata"]["all"]["dice"]["mean"] > 0


def test_a_card_without_figures_says_so(base):
    assert "No figures on held-out cases have been measured." in card_text(base)


def test_a_figure_of_fewer_patients_than_its_column_says_of_how_many(base):
    def measured(n: int) -> dict[str, float]:
        return {"n": n, "mean": 0.61, "low": 0.48, "high": 0.71, "median": 0.74}

    strata = {"all": {"dice": measured(24), "precision": measured(22), "absolute_error_ml": measured(30)}, "< 5 mL": {"dice": measured(9)}}
    told = card_text(replace(base, metrics={"held_out": {"heads": {"patients": 30, "strata": strata}}}))
    assert "| Dice | 0.61 (0.48 to 0.71) [0.74], n 24 | 0.61 (0.48 to 0.71) [0.74] |" in told
    assert "[0.74], n 22 |" in told and "| absolute error (mL) | 0.61 (0.48 to 0.71) [0.74] |" in told
    assert "Precision leaves out patients in whom nothing was found." in told
    validated = {"patients": 30, "dice": measured(24), "absolute_error_ml": measured(30)}
    told = card_text(replace(base, metrics={"cross_validation": validated}))
    assert "| Dice | 0.61 (0.48 to 0.71) [0.74], n 24 |" in told and "[0.74], n 30" not in told


def test_a_card_tells_that_slices_were_drawn_by_case(base):
    by_case = replace(base, training={**base.training, "config": {"batch": 8, "draw_by": "case"}})
    assert "8 slices (those with blood drawn by case), learning rate" in card_text(by_case)
    assert "drawn by case" not in card_text(base)


def test_the_command_writes_the_card_beside_the_model(base, cases, capsys):
    assert main(["card", str(base.path), "--cases", str(cases), "--title", "tiny heads"]) == 0
    assert "## tiny heads" in base.path.with_suffix(".md").read_text(encoding="utf-8")
    assert "tiny heads" in capsys.readouterr().out


def test_a_model_that_came_along_stays_as_it_is(tmp_path, base, cases, capsys, monkeypatch):
    monkeypatch.setattr("SAHLoRALib.model_folders.bundled_folders", lambda: [base.path.parent])
    monkeypatch.chdir(tmp_path)
    base.path.with_suffix(".md").write_text(card_text(base, "make models HEADS=heads"), encoding="utf-8")
    before = {path: path.read_bytes() for path in base.path.parent.iterdir()}
    given = ["card", str(base.path), "--cases", str(cases), "--title", "tiny heads"]
    assert main(given) == 0 and "the card goes to tiny.md" in capsys.readouterr().err
    text = Path("tiny.md").read_text(encoding="utf-8")
    assert "## tiny heads" in text and "```\nmake models HEADS=heads\n```" in text
    assert main([*given, "--validation", str(cases), "--choose-threshold"]) == 2 and "threshold of tiny stays" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in base.path.parent.iterdir()} == before


def test_a_card_that_is_written_again_keeps_its_commands(base, cases):
    commands = cases.with_name("commands.txt")
    commands.write_text("sahlora pretrain\nsahlora card")
    assert main(["card", str(base.path), "--cases", str(cases), "--commands", str(commands)]) == 0
    card = base.path.with_suffix(".md").read_text(encoding="utf-8")
    assert main(["card", str(base.path)]) == 0
    assert "sahlora pretrain\nsahlora card" in card and base.path.with_suffix(".md").read_text(encoding="utf-8") == card


def test_titles_that_do_not_match_the_tables_are_refused(base, cases, capsys):
    assert main(["card", str(base.path), "--cases", str(cases), "--title", "one", "two"]) == 2
    assert "one for each" in capsys.readouterr().err


def test_the_card_tells_the_digest_of_the_cases_that_it_was_measured_on(tmp_path, base, cases):
    make_card(base, None, {"heads": CaseTable.read(cases)}, tmp_path / "card.md")
    digest = read_info(base.path).metrics["held_out"]["heads"]["cases_digest"]
    assert f"digest `{digest}`" in (tmp_path / "card.md").read_text(encoding="utf-8")
    other = save_cohort(tmp_path / "other", (2, 4, 5))
    make_card(base, None, {"heads": CaseTable.read(other)}, tmp_path / "card.md")
    assert read_info(base.path).metrics["held_out"]["heads"]["cases_digest"] != digest


def test_what_is_segmented_in_a_scan_without_haemorrhage_stands_in_the_card_as_false(tmp_path, base, cases, capsys):
    case = list(CaseTable.read(cases))[-1]
    scan = case.image.rename(case.image.with_name("healthy.nrrd"))
    adapter = some_adapter(base)
    assert main(["card", str(adapter.path), "--clean", str(scan)]) == 0
    told = read_info(adapter.path).metrics["clean_scans"]["healthy"]
    assert main(["segment", str(scan), "--output", str(tmp_path / "out"), "--adapter", str(adapter.path)]) == 0
    report = json.loads(next((tmp_path / "out").rglob("report.json")).read_text(encoding="utf-8"))
    assert told["after"] == pytest.approx(report["total_ml"], abs=1e-3) and told["before"] > 0
    text = adapter.path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"| healthy | {told['after']:.2f} | {told['before']:.2f} |" in text
    capsys.readouterr()


@pytest.mark.parametrize("model", sorted(BUNDLED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_bundled_models_card_tells_what_its_header_tells(model: Path) -> None:
    """The panel and the lists show the header's figures: a card that was measured anew without its file would tell others."""
    card = model.with_suffix(".md").read_text(encoding="utf-8")
    commands = card.split("```")[1] if "```" in card else ""
    assert card == card_text(read_info(model), commands)


def split(cases: Path, *marks: str) -> Path:
    lines = cases.read_text(encoding="utf-8").splitlines()
    cases.write_text("\n".join(f"{line},{mark}" for line, mark in zip(lines, ("split", *marks), strict=True)) + "\n", encoding="utf-8")
    return cases


def test_of_a_table_with_test_cases_only_these_are_measured(tmp_path, base, cases):
    split(cases, "train", "test", "test")
    make_card(base, None, {"all": CaseTable.read(cases)}, tmp_path / "card.md")
    assert read_info(base.path).metrics["held_out"]["all"]["patients"] == 2


def test_cases_that_chose_the_threshold_or_stand_in_two_splits_are_not_measured(tmp_path, base, cases):
    table = CaseTable.read(cases)
    with pytest.raises(CaseError, match=r"also|same|both"):
        make_card(some_adapter(base), base, {"held out": table}, tmp_path / "card.md", validation=table)
    twice = save_cohort(tmp_path / "twice", (2, 4, 6), ("p0", "p1", "p0"))
    with pytest.raises(CaseError, match="several splits"):
        make_card(base, None, {"held out": CaseTable.read(split(twice, "train", "test", "test"))}, tmp_path / "card.md")
    assert not (tmp_path / "card.md").exists()


def test_training_and_validation_rows_beside_the_test_rows_do_not_matter(tmp_path, base, cases):
    split(cases, "train", "validation", "test")
    table = CaseTable.read(cases)
    make_card(some_adapter(base), base, {"test": table}, tmp_path / "card.md", validation=table.where(lambda case: case.split == "validation"))
    assert "## test" in (tmp_path / "card.md").read_text(encoding="utf-8")


#: What a header may tell of the cases that were used, given the digests of their scans and that of their table.
TOLD = {
    "trained on": lambda scans, table: {"scans": scans},
    "trained on, earlier version": lambda scans, table: {"cases_digest": table},
    "threshold chosen": lambda scans, table: {"threshold_chosen": {"cases": 3, "scans": scans}},
    "threshold chosen, earlier version": lambda scans, table: {"threshold_chosen": {"cases": 3, "cases_digest": table}},
    "a part of a sum": lambda scans, table: {"combined": [{"training": {"combined": [{"training": {"scans": scans}}]}}]},
}


@pytest.mark.parametrize("of_base", [False, True])
@pytest.mark.parametrize("told", TOLD)
def test_cases_that_a_model_or_its_base_has_used_are_not_measured_as_held_out(told, of_base, tmp_path, base, cases):
    table = CaseTable.read(cases)
    findings = table.check()
    training = TOLD[told](sorted(scan_digests(table, findings).values())[:2], table_digest(case_digests(table, findings)))
    adapter = some_adapter(base)
    model = record_metrics(replace(base if of_base else adapter, training=training), {})
    given = (adapter, model) if of_base else (model, base)
    with pytest.raises(CaseError, match=f"heads: {model.name} was trained or chosen on a0.*nothing there is held out"):
        make_card(*given, {"heads": table}, tmp_path / "card.md")
    assert not (tmp_path / "card.md").exists() and not read_info(model.path).metrics


def test_a_scan_under_another_name_and_with_another_mask_is_known(tmp_path, base, cases):
    known = scan_digests(CaseTable.read(cases), CaseTable.read(cases).check())["a01"]
    record_metrics(replace(base, training={"scans": [known]}), {})
    case = save_cohort(tmp_path / "again", (3, 6)).with_name("a01")
    shutil.copy(cases.with_name("a01") / "ct.nrrd", case / "ct.nrrd")
    table = CaseTable.read(case.with_name("cases.csv"))
    with pytest.raises(CaseError, match="chosen on a01,"):
        make_card(read_info(base.path), None, {"again": table}, tmp_path / "card.md")


def test_what_has_chosen_a_threshold_is_no_test_of_it_later(tmp_path, base, cases, capsys):
    judged_by = save_cohort(tmp_path / "validation", (5, 7, 3), ("v0", "v1", "v2"))
    assert main(["card", str(base.path), "--validation", str(judged_by), "--choose-threshold"]) == 0
    scans = read_info(base.path).training["threshold_chosen"]["scans"]
    assert len(scans) == 3 and not any(scan in base.path.with_suffix(".md").read_text(encoding="utf-8") for scan in scans)
    judged_by.write_text("".join(judged_by.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    capsys.readouterr()
    assert main(["card", str(base.path), "--cases", str(judged_by)]) == 2
    said = capsys.readouterr().err
    assert "tiny was trained or chosen on a00, a01, so nothing there is held out" in said and "Traceback" not in said
    scan = judged_by.with_name("a02") / "ct.nrrd"
    assert main(["card", str(base.path), "--clean", str(scan)]) == 2 and "chosen on ct, so" in capsys.readouterr().err


def test_the_scans_of_two_hundred_cases_take_little_of_a_header(base):
    scans = [f"{n * 21_000_000:08x}" for n in range(200)]
    before = base.path.stat().st_size
    record_metrics(replace(base, training={"scans": scans}), {})
    assert base.path.stat().st_size - before < 4000 and used_scans(read_info(base.path).training) == set(scans)


def test_a_strangers_header_may_tell_anything_of_its_cases():
    assert not used_scans({"scans": 5, "threshold_chosen": [1], "combined": {"training": {}}})
    assert not used_scans({"scans": None, "threshold_chosen": None, "combined": [None, {"training": 3}, {}]})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="where a file is mapped can be read on Linux only")
def test_no_weight_file_is_held_open_where_it_is_replaced(tmp_path, base, monkeypatch):
    """Windows refuses to replace a file that somebody still points into."""
    from SAHLoRALib import weights
    from SAHLoRALib.checkpoint import read_checkpoint, write_checkpoint

    real, mapped = weights._write, []
    monkeypatch.setattr(weights, "_write", lambda *given: mapped.append(str(base.path) in Path("/proc/self/maps").read_text()) or real(*given))
    record_metrics(base, {"dice": 0.5})
    assert mapped == [False]
    path = write_checkpoint(tmp_path, {"a": torch.ones(9999)}, {})
    found = read_checkpoint(tmp_path)
    assert found is not None and str(path) not in Path("/proc/self/maps").read_text()
