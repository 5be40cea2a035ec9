"""Adapters added up: the network of the sum, what a rank keeps, and what cannot be added."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from SAHLoRALib.adapters import AdapterConfig, adapter_state, attach, load_adapter_state, merge
from SAHLoRALib.card_text import card_text
from SAHLoRALib.cases import CaseTable
from SAHLoRALib.cli import main
from SAHLoRALib.combining import Part, combine, judge
from SAHLoRALib.errors import CaseError, ConfigError, ModelError
from SAHLoRALib.validation import THRESHOLDS
from SAHLoRALib.weights import ModelInfo, load_network, read_info, save_adapter, save_base
from small_cli import json_lines, of_kind
from tiny_cohort import save_cohort, save_tiny_base


@pytest.fixture
def base(tmp_path: Path) -> ModelInfo:
    return save_tiny_base(tmp_path / "models")


def trained(base: ModelInfo, name: str, seed: int, threshold: float = 0.5, size: float = 0.05, **settings: object) -> ModelInfo:
    """An adapter of this configuration with random values, as if it had been trained."""
    config = AdapterConfig(**settings)
    network, _ = load_network(base)
    attach(network, config)
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: tensor if key.endswith("tracked") else tensor + size * torch.rand(tensor.shape, generator=generator)
        for key, tensor in adapter_state(network).items()
    }
    network, _ = load_network(base)
    load_adapter_state(network, config, state)
    training = {"cases": 7, "steps": 30, "lesion": "subarachnoid"}
    return save_adapter(network, config, base.path.with_name(f"{name}.safetensors"), base=base, threshold=threshold, training=training)


def weights(base: ModelInfo, adapter: ModelInfo | None = None) -> dict[str, torch.Tensor]:
    return {name: t.double() for name, t in load_network(base, adapter)[0].state_dict().items() if t.is_floating_point()}


METHODS = [
    ({"method": "conv-lora", "rank": 2, "norm": "adapt"}, {"method": "cp-lora", "rank": 3, "norm": "adapt"}),
    ({"method": "cp-dora", "rank": 2, "norm": "affine"}, {"method": "lora-c", "rank": 1}),
    ({"method": "tucker", "rank": 2, "modules": ("decoder",)}, {"method": "conv-dora", "rank": 1, "modules": ("head", "encoder")}),
]


@pytest.mark.parametrize(("first", "second"), METHODS)
def test_a_sum_is_the_base_and_each_change_at_its_share(base, first, second):
    """Whatever the methods: kernels and BatchNorms of the network that is run, against the sum written out. A part's own strength does not count."""
    one, two = trained(base, "one", 1, **first), trained(base, "two", 2, **second, strength=0.5)
    found = combine(base, [Part(one, 0.25), Part(two, 0.6)])
    assert found.kept == pytest.approx(1, abs=1e-6) and found.config.method == "conv-lora"
    state = adapter_state(found.network)
    merge(found.network)
    start, whole = weights(base), found.network.state_dict()
    full = trained(base, "full", 2, **second)
    after_one, after_two = weights(base, one), weights(base, full)
    expected = {name: t + 0.25 * (after_one[name] - t) + 0.6 * (after_two[name] - t) for name, t in start.items()}
    assert any(not torch.allclose(expected[name], start[name], atol=1e-3) for name in start)
    for name, tensor in expected.items():
        assert torch.allclose(whole[name].double(), tensor, atol=1e-6), name
    touched = {name.split(".")[0] for name in state}
    assert touched == {
        module
        for settings in (first, second)
        for module in settings.get("modules", ("stem", "encoder", "multiview", "bottleneck", "decoder", "head"))
    }


def test_a_lower_rank_keeps_the_largest_part_and_says_how_much(base):
    one = trained(base, "one", 1, method="conv-lora", rank=4)
    part, whole = combine(base, [Part(one, 1.0)], rank=1), combine(base, [Part(one, 1.0)])
    assert whole.config.rank == 4 and part.config.rank == 1
    start, full = weights(base), weights(base, one)
    merge(part.network)
    lost = sum(float(((part.network.state_dict()[n] - full[n]) ** 2).sum()) for n in start)
    change = sum(float(((full[n] - t) ** 2).sum()) for n, t in start.items())
    assert 0.3 < part.kept < 0.999 and part.kept == pytest.approx(1 - lost / change, abs=1e-4)


def test_a_rank_above_all_kernels_changes_nothing(base):
    one = trained(base, "one", 1, method="conv-lora", rank=2)
    more, same = combine(base, [Part(one, 0.5)], rank=64), combine(base, [Part(one, 0.5)])
    merge(more.network)
    merge(same.network)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(more.network.state_dict().values(), same.network.state_dict().values(), strict=True))


def test_what_cannot_be_added_is_refused(base, tmp_path):
    one = trained(base, "one", 1, method="cp-lora", rank=2, norm="adapt")
    two = trained(base, "two", 2, method="cp-lora", rank=2, norm="affine")
    whole = save_base(load_network(base)[0], tmp_path / "whole.safetensors", grid=base.grid)
    for parts, told in (
        ([Part(one, 1.5)], "at most 1"), ([Part(one, 0.5), Part(one, 0.2)], "twice"),
        ([Part(one, 0.7), Part(two, 0.7)], "add up to 1.4"),
        ([Part(one, 0.5), Part(two, 0.5)], "one has its own BatchNorm statistics and two"), ([Part(whole, 0.5)], "whole network"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            combine(base, parts)
    other = save_tiny_base(tmp_path / "other", threshold_hu=60.0)
    with pytest.raises(ModelError, match="belongs to the base"):
        combine(other, [Part(one, 0.5)])


def test_validation_cases_choose_the_threshold_and_must_be_sound(base, tmp_path):
    found = combine(base, [Part(trained(base, "one", 1, method="cp-lora", rank=2), 0.5)])
    score, told = judge(found, base, CaseTable.read(save_cohort(tmp_path / "validation", (5, 7), ("v0", "v1"))))
    assert score.threshold in THRESHOLDS and 0 < score.best_dice <= 1 and told["cases"] == 2
    assert found.network.stem is not None and adapter_state(found.network)  # still the adapter beside its base
    with pytest.raises(CaseError, match="no threshold"):
        judge(found, base, CaseTable.read(save_cohort(tmp_path / "healthy", (0, 0), ("h0", "h1"))))


def test_the_command_writes_an_adapter_like_any_other(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAHLORA_MODELS", str(base.path.parent))
    one = trained(base, "one", 1, threshold=0.3, method="cp-lora", rank=2)
    two = trained(base, "two", 2, threshold=0.6, method="conv-lora", rank=1)
    assert main(["combine", "one=0.5", f"{two.path}=0.25", "--name", "both", "--events", "json"]) == 0
    told = of_kind(json_lines(capsys.readouterr().out), "result")[0]
    info = read_info(base.path.with_name("both.safetensors"))
    assert (told["digest"], told["rank"]) == (info.digest, info.adapter.rank) and told["kept"] == pytest.approx(1, abs=1e-6)
    assert info.threshold == pytest.approx(0.4) and info.training["lesion"] == "subarachnoid" and info.licence == "Apache-2.0"
    assert [(p["name"], p["digest"], p["share"]) for p in info.training["combined"]] == [("one", one.digest, 0.5), ("two", two.digest, 0.25)]
    text = card_text(info)
    assert "- combined by SAHLoRA" in text and f"- 0.25 of two (`{two.digest[:16]}`): 7 cases" in text and "keeps 100 %" in text
    case = next(iter(CaseTable.read(save_cohort(tmp_path / "cohort", (5,), ("p0",)))))
    assert main(["segment", str(case.image), "--output", str(tmp_path / "out"), "--adapter", "both"]) == 0
    assert main(["train", str(tmp_path / "cohort" / "cases.csv"), "--name", "more", "--continue-from", "both", "--folds", "0", "--steps", "1",
                 "--crop", "48", "48", "--run", str(tmp_path / "run"), "--validation-share", "0"]) == 0  # fmt: skip
    assert read_info(base.path.with_name("more.safetensors")).training["continued_from"]["digest"] == info.digest


def test_the_command_chooses_the_threshold_on_validation_cases(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAHLORA_MODELS", str(base.path.parent))
    trained(base, "one", 1, threshold=0.99, method="cp-lora", rank=2)
    table = save_cohort(tmp_path / "validation", (5, 7), ("v0", "v1"))
    assert main(["combine", "one=0.5", "--name", "half", "--validation", str(table), "--rank", "2"]) == 0
    info = read_info(base.path.with_name("half.safetensors"))
    assert info.threshold in THRESHOLDS and info.adapter.rank == 2
    assert info.metrics["validation"]["threshold"] == info.threshold and info.training["threshold_chosen"]["cases"] == 2
    assert f"probability: {info.threshold:g}, chosen on 2 validation cases" in card_text(info)
    assert "validation Dice" in capsys.readouterr().out


@pytest.mark.parametrize(("marks", "left_out"), [(("", "test", ""), "1 cases of the split test"), (("train", "val", "val"), "not of the split val")])
def test_only_validation_cases_of_a_table_choose_the_threshold(marks, left_out, base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAHLORA_MODELS", str(base.path.parent))
    trained(base, "one", 1, method="cp-lora", rank=2)
    table = save_cohort(tmp_path / "cases", (5, 7, 6), ("v0", "v1", "v2"))
    lines = zip(table.read_text(encoding="utf-8").splitlines(), ("split", *marks), strict=True)
    table.write_text("".join(f"{line},{mark}\n" for line, mark in lines), encoding="utf-8")
    assert main(["combine", "one=0.5", "--name", "half", "--validation", str(table)]) == 0
    assert read_info(base.path.with_name("half.safetensors")).training["threshold_chosen"]["cases"] == 2
    assert left_out in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "No adapter was named"),
        (["one"], "NAME=SHARE"), (["one=much"], "NAME=SHARE"), (["one=nan"], "NAME=SHARE"), (["one=-0.5"], "NAME=SHARE"), (["=0.5"], "NAME=SHARE"),
        (["one=2"], "at most 1"), (["nobody=0.5"], "no model 'nobody'"), (["tiny=0.5"], "not an adapter"), (["one=0.5", "--rank", "0"], "rank"),
    ],
)  # fmt: skip
def test_wrong_words_get_one_sentence_and_no_file(given, told, base, monkeypatch, capsys):
    monkeypatch.setenv("SAHLORA_MODELS", str(base.path.parent))
    trained(base, "one", 1, method="cp-lora", rank=2)
    given = [word.replace("tiny=", f"{base.name}=") for word in given]
    assert main(["combine", *given, "--name", "new"]) == 2
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1 and not base.path.with_name("new.safetensors").exists()


def test_a_model_that_is_there_is_not_written_over(base, monkeypatch, capsys):
    monkeypatch.setenv("SAHLORA_MODELS", str(base.path.parent))
    one = trained(base, "one", 1, method="cp-lora", rank=2)
    assert main(["combine", "one=0.5", "--name", "one"]) == 2 and "already" in capsys.readouterr().err
    assert read_info(one.path).digest == one.digest
