"""Studies: all methods on one cohort, kept runs, cancel and resume, files and flags."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from SAHLoRALib import runs as runs_module
from SAHLoRALib import study as study_module
from SAHLoRALib.adapters import METHODS, count_parameters
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.cli import main
from SAHLoRALib.errors import Cancelled, ConfigError, ModelError, SAHLoRAError
from SAHLoRALib.events import Events
from SAHLoRALib.folds import Folds
from SAHLoRALib.methods import default_rate
from SAHLoRALib.runs import ZERO_SHOT_CHOSEN, finished
from SAHLoRALib.statistics import compare_paired
from SAHLoRALib.strategies import STRATEGIES
from SAHLoRALib.study import StudyResult, run_study
from SAHLoRALib.study_config import PAPER, StudyConfig
from SAHLoRALib.weights import read_info, record_metrics
from tiny_cohort import QUICK, CancelAfter, flags, quick, save_cohort, save_tiny_base, whole_study
from tiny_scans import CONFIG

Capture = pytest.CaptureFixture[str]
SIZES = (2, 3, 4, 5, 6, 7)
#: Columns that differ from one sitting to the next.
CLOCK = ["train_seconds", "predict_seconds_per_case", "peak_memory_mb"]


def small(tmp_path: Path, methods: tuple[str, ...] = ("zero-shot", "head", "cp-lora"), **changes: Any) -> StudyConfig:
    """A study of two or three methods on six cases."""
    cases = tmp_path / "cases" / "cases.csv"
    if not cases.exists():
        save_cohort(cases.parent, SIZES)
        save_tiny_base(tmp_path)
    base = StudyConfig(cases, tmp_path / "study", str(tmp_path / "tiny.safetensors"), methods, (2,), resamples=50, training=quick())
    return replace(base, **changes)


def same(a: StudyResult, b: StudyResult) -> None:
    """The tables are equal but for the clock's columns."""
    assert a.tables is not None and b.tables is not None
    pd.testing.assert_frame_equal(a.tables.patients, b.tables.patients)
    pd.testing.assert_frame_equal(a.tables.methods.drop(columns=CLOCK), b.tables.methods.drop(columns=CLOCK))
    pd.testing.assert_frame_equal(a.tables.comparison, b.tables.comparison)
    assert a.tables.claims == b.tables.claims


def models(config: StudyConfig) -> dict[str, int]:
    """Every model of the study's runs and when it was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in config.output.glob("runs/*/model.safetensors")}


def test_study_of_all_strategies_and_methods_gives_all_tables() -> None:
    config, result = whole_study()
    assert result.tables is not None and not result.failed and len(result.runs) == 1 + 3 * (1 + len(STRATEGIES) + len(METHODS))
    tables = result.tables
    labels = ["zero-shot", ZERO_SHOT_CHOSEN, *(f"fine-tuning {s}" for s in STRATEGIES), *(f"{m}, rank 8" for m in (*PAPER[7:], "loralib", "tucker"))]
    assert list(tables.methods["label"]) == labels and set(PAPER[7:]) | {"loralib", "tucker"} == set(METHODS)
    assert len(tables.patients) == 9 * len(labels) and set(tables.patients["fold"]) == {1, 2, 3}
    rows = list(csv.DictReader((config.output / "results.csv").open(encoding="utf-8")))
    assert len(rows) == len(tables.patients) and {"label", "rank", "fold", "patient", "stratum", "dice", "hd95_mm", "predicted_ml"} <= set(rows[0])
    # No patient is in two folds, whatever the method.
    assert (tables.patients.groupby("patient")["fold"].nunique() == 1).all()
    methods = tables.methods.set_index("label")
    for method in METHODS:
        row = methods.loc[f"{method}, rank 8"]
        assert row["trainable"] == count_parameters(replace(config.training.adapter, method=method, rank=8), CONFIG)
        assert row["kind"] == "adapter" and row["file_kb"] > 0 and row["kernel_numbers"] == methods.loc["cp-lora, rank 8", "kernel_numbers"]
        assert row["learning_rate"] == default_rate(method) and row["scale"] == 1
    assert math.isnan(methods.loc["fine-tuning all", "scale"]) and math.isnan(methods.loc["zero-shot", "learning_rate"])
    assert methods.loc["zero-shot", "trainable"] == 0 and math.isnan(methods.loc["zero-shot", "peak_memory_mb"])
    assert (methods["train_seconds"][2:] > 0).all() and (methods["peak_memory_mb"][2:] > 0).all()
    strata = tables.strata()
    assert len(strata) == 3 and all(f"dice {s}" in methods.columns for s in strata)
    first = tables.patients[tables.patients["label"] == "cp-lora, rank 8"]
    assert methods.loc["cp-lora, rank 8", "dice"] == pytest.approx(first["dice"].mean())
    dice = tables.patients.pivot(index="patient", columns="label", values="dice")[labels]
    pd.testing.assert_frame_equal(tables.comparison, compare_paired(dice, "fine-tuning all", 200))
    assert tables.reference == "fine-tuning all" and [claim.number for claim in tables.claims] == [1, 2, 3, 4, 5]
    for run, _ in result.runs:
        assert len(list((config.output / "runs" / run.name / "predictions").glob("*.nrrd"))) == len(run.test)
        assert not (config.output / "runs" / run.name / "checkpoint.safetensors").exists()


def test_finished_runs_are_skipped_and_give_the_same_tables() -> None:
    config, result = whole_study()
    before = models(config)
    again = run_study(config, events := CancelAfter())
    assert again.skipped == len(result.runs) and not events.of("metric") and models(config) == before
    same(result, again)


def test_zero_shot_is_what_the_base_alone_gives() -> None:
    from SAHLoRALib.metrics import dice
    from SAHLoRALib.segmenter import SegmentConfig, Segmenter

    config, result = whole_study()
    assert result.tables is not None
    segmenter = Segmenter.load(config.base, "none", SegmentConfig(device="cpu", precision="float32"))
    rows = result.tables.patients[result.tables.patients["label"] == "zero-shot"].set_index("patient")
    for case in CaseTable.read(config.cases):
        ct, reference = case.read()
        assert rows.loc[case.patient, "dice"] == pytest.approx(dice(segmenter.segment(ct).mask, reference))


def test_zero_shot_is_shown_a_second_time_with_a_threshold_from_each_folds_validation_patients() -> None:
    """The same network, so only the threshold differs: what the fine-tuned networks have, and nothing more."""
    _, result = whole_study()
    assert result.tables is not None
    chosen = {run.fold: (run, done) for run, done in result.runs if run.label == ZERO_SHOT_CHOSEN}
    tuned = {run.fold: run for run, _ in result.runs if run.method == "all"}
    assert sorted(chosen) == [0, 1, 2]
    for fold, (run, done) in chosen.items():
        assert (run.training, run.validation, run.test) == ((), tuned[fold].validation, tuned[fold].test)
        assert done.trainable == 0 and done.validation is not None and done.threshold == done.validation["threshold"]
    rows = result.tables.methods.set_index("label")
    thresholds = [done.threshold for _, done in chosen.values()]
    assert (rows.loc[ZERO_SHOT_CHOSEN, "threshold_low"], rows.loc[ZERO_SHOT_CHOSEN, "threshold_high"]) == (min(thresholds), max(thresholds))
    assert rows.loc["zero-shot", "threshold_low"] == rows.loc["zero-shot", "threshold_high"] == 0.5
    # Soft Dice does not know thresholds; Dice and the claim do.
    assert rows.loc[ZERO_SHOT_CHOSEN, "soft_dice"] == pytest.approx(rows.loc["zero-shot", "soft_dice"])
    assert f"− {ZERO_SHOT_CHOSEN}" in result.tables.claims[0].figures and "Dice of zero-shot 0." in result.tables.claims[0].figures
    assert result.report is not None and "not the threshold's" in result.report.read_text(encoding="utf-8")


def test_the_second_zero_shot_can_be_left_out(tmp_path: Path) -> None:
    result = run_study(small(tmp_path, ("zero-shot",), zero_shot_threshold=False), Events())
    assert result.tables is not None and list(result.tables.methods["label"]) == ["zero-shot"]


def test_cancelled_study_goes_on_and_gives_the_same_tables(tmp_path: Path) -> None:
    config = small(tmp_path)
    straight = run_study(config, Events())
    stopped = replace(config, output=tmp_path / "stopped")
    for count, kind in ((2, "metric"), (4, "metric"), (40, "progress")):
        with pytest.raises(Cancelled):
            run_study(stopped, CancelAfter(count, kind))
        assert not (stopped.output / "report.md").exists()
    resumed = run_study(stopped, Events())
    same(straight, resumed)
    digests = [{run.name: run.digest for run, _ in r.runs} for r in (straight, resumed)]
    assert digests[0] == digests[1] and 0 < resumed.skipped < len(resumed.runs)


def test_study_grows_by_methods_and_ranks_without_doing_the_others_again(tmp_path: Path) -> None:
    config = small(tmp_path, ("zero-shot", "cp-lora"))
    run_study(config, Events())
    before = models(config)
    grown = run_study(replace(config, methods=("zero-shot", "head", "cp-lora"), ranks=(2, 4)), Events())
    assert grown.skipped == 7 and len(grown.runs) == 1 + 3 + 3 + 6
    after = models(config)
    assert {name: after[name] for name in before} == before and grown.tables is not None
    assert list(grown.tables.methods["rank"]) == [0, 0, 0, 2, 4]


def test_folds_are_kept_when_cases_are_added(tmp_path: Path) -> None:
    config = small(tmp_path, ("cp-lora",))
    run_study(config, Events())
    before = Folds.read(config.output / "folds.json").folds
    save_cohort(tmp_path / "cases", (*SIZES, 8, 3))
    result = run_study(config, Events())
    after = Folds.read(config.output / "folds.json").folds
    assert {p: after[p] for p in before} == before and len(after) == 8 and result.skipped == 0
    assert result.tables is not None and len(result.tables.patients) == 8


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runs_module.fit

    def fails(config: Any, *rest: Any, **more: Any) -> Any:
        if config.strategy == "head":
            raise SAHLoRAError("The loss is not a number at step 2.")
        if config.strategy == "decoder":
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return real(config, *rest, **more)

    monkeypatch.setattr(runs_module, "fit", fails)
    config = small(tmp_path, ("head", "decoder", "cp-lora"), reference="head")
    result = run_study(config, events := CancelAfter())
    reasons = {run.label: reason for run, reason in result.failed}
    assert "not a number" in reasons["fine-tuning head"] and "memory does not suffice" in reasons["fine-tuning decoder"]
    assert result.tables is not None and list(result.tables.methods["label"]) == ["cp-lora, rank 2"]
    assert result.report is not None and "not a number" in result.report.read_text(encoding="utf-8")
    assert any("fine-tuning head, fold 1 failed" in e["message"] for e in events.of("log"))
    monkeypatch.setattr(runs_module, "fit", real)
    again = run_study(config, Events())
    assert not again.failed and again.skipped == 3 and again.tables is not None and again.tables.reference == "fine-tuning head"


def test_events_name_run_method_and_fold_and_the_progress_rises(tmp_path: Path) -> None:
    run_study(small(tmp_path, ("zero-shot", "all", "lora-c")), events := CancelAfter())
    losses = [e for e in events.of("metric") if e["name"] == "loss"]
    assert {(e["run"], e["method"], e["rank"], e["fold"]) for e in losses} == {
        (label, method, rank, fold) for label, method, rank in (("fine-tuning all", "all", 0), ("lora-c, rank 2", "lora-c", 2)) for fold in range(3)
    }
    told = [e for e in events.of("progress") if e["stage"] == "Study"]
    assert [e["fraction"] for e in told] == sorted(e["fraction"] for e in told) and told[-1]["fraction"] == 1.0
    assert "lora-c, rank 2, fold 3" in told[-1]["detail"] and told[-2]["seconds_left"] is not None


def test_strata_follow_the_given_edges(tmp_path: Path) -> None:
    result = run_study(small(tmp_path, ("zero-shot",), edges=(12.0, 50.0)), Events())
    assert result.tables is not None and result.tables.strata() == ["< 12 mL", "12–50 mL", "≥ 50 mL"]


class CancelAtCase(CancelAfter):
    """Cancels when a case is predicted."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self._case = case

    def _emit(self, event: str, **fields: Any) -> None:
        super()._emit(event, **fields)
        if f"predicting {self._case}" in str(fields.get("detail")):
            self.cancel()


def with_threshold(config: StudyConfig, threshold: float) -> None:
    """Another threshold in the base's header, as `sahlora card --choose-threshold` writes it: the digest of the weights stays."""
    record_metrics(replace(read_info(config.base), threshold=threshold), {})


def test_what_was_measured_with_another_threshold_of_the_base_is_measured_again_and_nothing_else(tmp_path: Path) -> None:
    config = small(tmp_path, ("zero-shot",))
    before = run_study(config, Events())
    with_threshold(config, 0.2)
    again = run_study(config, events := CancelAfter())
    assert again.skipped == 3  # a threshold of their own
    assert {result.threshold for run, result in again.runs if run.label == "zero-shot"} == {0.2}
    assert ["zero-shot is done again" in e["message"] for e in events.of("log") if e["level"] == "warning" and "done again" in e["message"]] == [True]
    fresh = run_study(replace(config, output=tmp_path / "fresh"), Events())
    same(fresh, again)
    assert before.tables is not None and again.tables is not None and not before.tables.patients.equals(again.tables.patients)
    assert run_study(config, Events()).skipped == 4


def test_cases_of_an_unfinished_run_are_measured_again_with_another_threshold(tmp_path: Path) -> None:
    config = small(tmp_path, ("zero-shot",), zero_shot_threshold=False)
    with pytest.raises(Cancelled):
        run_study(config, CancelAtCase("a02"))
    assert list(config.output.glob("runs/zero-shot*/predictions/*.json"))
    with_threshold(config, 0.2)
    same(run_study(replace(config, output=tmp_path / "fresh"), Events()), run_study(config, Events()))


def test_a_training_that_took_the_bases_threshold_is_done_again_when_that_is_another(tmp_path: Path) -> None:
    config = small(tmp_path, ("head",), validation=0.0, folds=2)
    run_study(config, Events())
    assert run_study(config, Events()).skipped == 2
    with_threshold(config, 0.2)
    again = run_study(config, Events())
    assert again.skipped == 0 and {result.threshold for _, result in again.runs} == {0.2}
    for run, result in again.runs:  # one that validation chose does not depend on it
        path = config.output / "runs" / run.name / "run.json"
        told = json.loads(path.read_text(encoding="utf-8")) | {"threshold": 0.3, "validation": {"threshold": 0.3}}
        path.write_text(json.dumps(told), encoding="utf-8")
        assert finished(run, config.output / "runs") == replace(result, threshold=0.3, validation={"threshold": 0.3})


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_study_file_in_yaml_and_json_says_the_same(tmp_path: Path) -> None:
    text = """
cases: data/cases.csv
output: out
base: models/tiny.safetensors
methods: [zero-shot, LoRA-C, decoder+head]
ranks: [8, 2]
edges: [5, 20]
learning_rates: {lora-c: 0.005}
training: {epochs: 7, augmentation: {kind: laboratory}}
variants:
  - {label: of the decoder, strategy: adapter, adapter: {rank: 4, modules: [decoder]}}
"""
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    config = StudyConfig.read(tmp_path / "study.yaml")
    assert config.cases == tmp_path / "data" / "cases.csv" and config.base == str(tmp_path / "models" / "tiny.safetensors")
    assert config.ranks == (2, 8) and config.edges == (5.0, 20.0) and config.training.augmentation.kind == "laboratory"
    found = {label: settings for _, _, label, settings, _ in config.configurations()}
    assert list(found) == ["zero-shot", "lora-c, rank 2", "lora-c, rank 8", "fine-tuning decoder+head", "of the decoder"]
    assert found["lora-c, rank 8"].learning_rate == 0.005 and found["fine-tuning decoder+head"].rate == default_rate("fine-tune:decoder+head")
    assert found["of the decoder"].adapter.modules == ("decoder",) and found["of the decoder"].epochs == 7
    (tmp_path / "study.json").write_text(json.dumps(config.as_dict()), encoding="utf-8")
    assert StudyConfig.read(tmp_path / "study.json") == config


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"methods": ["lora-x"]}, "Unknown method 'lora-x'"),
        ({"methods": []}, "at least one method"),
        ({"ranks": [0]}, "rank must be a whole number"),
        ({"ranks": ["eight"]}, "ranks must be whole numbers"),
        ({"folds": 1}, "at least 2 folds"),
        ({"validation": 1.5}, "validation must be"),
        ({"edges": [9, 3]}, "must be positive and rise"),
        ({"learning_rates": {"tucker": 0.1}}, "not among the methods"),
        ({"learning_rates": [1]}, "of the wrong kind"),
        ({"training": {"rate": 1}}, "Unknown training setting rate"),
        ({"training": {"strategy": "all"}}, "leave them out of the training"),
        ({"training": {"adapter": {"rank": 4}}}, "leave them out of the training"),
        ({"ranks": 8, "rank": 4}, "Unknown study setting rank"),
        ({"variants": [{"strategy": "all"}]}, "needs a label"),
        ({"variants": [{"label": "cp-lora, rank 8"}]}, "give the variant another label"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        StudyConfig.from_dict(settings)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("s.yaml", "a: [", "is not YAML"),
        ("s.json", "{", "neither YAML nor JSON"),
        ("s.yaml", "- a", "settings by name"),
        ("no.yaml", None, "cannot be read"),
    ],
)
def test_study_file_that_cannot_be_used_is_told(name: str, text: str | None, told: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        StudyConfig.read(tmp_path / name)


def test_the_same_training_twice_is_refused(tmp_path: Path) -> None:
    config = small(tmp_path, ("cp-lora",), variants=({"label": "again", "adapter": {"rank": 2}},))
    with pytest.raises(ConfigError, match="are the same training"):
        run_study(config, Events())


def test_reference_that_is_not_there_and_missing_base_are_told_before_any_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="The reference 'tucker' is not among the runs"):
        run_study(small(tmp_path, reference="tucker"), Events())
    with pytest.raises(ModelError, match="no weight file"):
        run_study(small(tmp_path, base=str(tmp_path / "nothing.safetensors")), Events())
    assert not (tmp_path / "study" / "runs").exists()


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_study_command_takes_a_file_and_flags_beside_it(tmp_path: Path, capsys: Capture) -> None:
    small(tmp_path)
    training = {name: list(v) if isinstance(v, tuple) else v for name, v in QUICK.items()} | {"network": {"levels": 2, "width": 4}}
    settings = {"cases": "cases/cases.csv", "base": "./tiny.safetensors", "output": "out", "methods": ["all"], "ranks": [8], "training": training}
    (tmp_path / "study.json").write_text(json.dumps(settings), encoding="utf-8")
    command = ["study", "--file", str(tmp_path / "study.json"), "--methods", "zero-shot", "cp-lora", "--ranks", "2", "--resamples", "50"]
    assert main([*command, "--events", "json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [result] = [e for e in events if e["event"] == "result"]
    assert (
        [m["label"] for m in result["methods"]] == ["zero-shot", ZERO_SHOT_CHOSEN, "cp-lora, rank 2"]
        and result["runs"] == 7
        and result["failed"] == []
    )
    assert [claim["number"] for claim in result["claims"]] == [1, 2, 3, 4, 5] and Path(result["report"]).is_file()
    assert main(command) == 0
    told = capsys.readouterr()
    assert "cp-lora, rank 2" in told.out and "Claim 5" in told.out and "7 are finished already" in told.err


def test_study_command_takes_flags_alone_and_says_what_failed(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path)
    words = ["study", "--cases", str(config.cases), "--output", str(config.output), "--base", config.base, "--folds", "2", *flags("training.")]
    words += ["--methods", "head", "--learning-rates", "head", "0.01"]
    real = study_module.execute

    def fails(*given: Any, **more: Any) -> Any:
        raise SAHLoRAError("Nothing goes.")

    monkeypatch.setattr(study_module, "execute", fails)
    assert main(words) == 2 and "fine-tuning head, fold 1: Nothing goes." in capsys.readouterr().err
    monkeypatch.setattr(
        study_module, "execute", lambda run, *given, **more: fails() if run.fold and run.method == "head" else real(run, *given, **more)
    )
    assert main([*words, "--methods", "head", "zero-shot"]) == 1 and "Failed: fine-tuning head, fold 2: Nothing goes." in capsys.readouterr().out
    assert json.loads((config.output / "study.json").read_text(encoding="utf-8"))["learning_rates"] == {"head": 0.01}


@pytest.mark.parametrize(
    ("sizes", "more", "told"),
    [
        ((4,), [], "3 folds need at least 3 patients"),
        ((4, 5, 6), ["--folds", "4"], "4 folds need at least 4 patients"),
        ((4, 5, 6), ["--base", "nobody"], "There is no model 'nobody'"),
        ((4, 5, 6), ["--methods", "lora-x"], "Unknown method"),
        ((4, 5, 6), ["--training.strategy", "all"], "leave them out of the training"),
        ((4, 5, 6), ["--file", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        ((4, 5, 6), ["--dask", "tcp://127.0.0.1:9"], "No dask scheduler answers"),
    ],
)
def test_wrong_input_of_the_command_is_told_in_a_sentence(
    sizes: tuple[int, ...], more: list[str], told: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("SAHLoRALib.distribute.CONNECT_SECONDS", 0.5)
    cases, base = save_cohort(tmp_path / "cases", sizes), save_tiny_base(tmp_path)
    words = ["study", "--cases", str(cases), "--output", str(tmp_path / "out"), "--base", str(base.path), *flags("training."), *more]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert told in " ".join(said.split()) and "Traceback" not in said


def test_patients_that_were_corrected_count_for_runs_that_are_finished_too(tmp_path: Path) -> None:
    config = small(tmp_path, ("zero-shot", "head"))
    run_study(config, Events())
    text = config.cases.read_text(encoding="utf-8")
    config.cases.write_text(text.replace(",p02,", ",p00,"), encoding="utf-8")
    tables = run_study(config, Events()).tables
    assert tables is not None
    for _, rows in tables.patients.groupby("label"):
        assert sorted(rows["patient"]) == ["p00", "p01", "p03", "p04", "p05"]
