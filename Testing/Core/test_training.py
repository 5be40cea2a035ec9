"""Training: what learns and what does not, the loop, settings and devices."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from SAHLoRALib import training_loop
from SAHLoRALib.adapters import AdapterConfig, merge
from SAHLoRALib.augment import Augmentation
from SAHLoRALib.checkpoint import read_checkpoint
from SAHLoRALib.device import bf16_support, choose_compute
from SAHLoRALib.errors import ConfigError, SAHLoRAError
from SAHLoRALib.loss import segmentation_loss
from SAHLoRALib.methods import default_rate
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.strategies import STRATEGIES, module_parameters
from SAHLoRALib.training import TrainingConfig, fit, save_model
from SAHLoRALib.validation import Score
from SAHLoRALib.weights import load_adapted, load_network, read_info
from small_training import NETWORK, SMALL, WAYS, Recorder, state

# ── what learns ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_training_from_scratch_learns_to_find_bright_squares(tmp_path, train, validation):
    config = replace(SMALL, steps=60, steps_per_epoch=30, learning_rate=1e-2, augmentation=Augmentation("none"), batch=8)
    result = fit(config, train, validation, folder=tmp_path)
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert result.best is not None and result.best.best_dice > 0.8
    assert result.trainable == sum(p.numel() for p in MultiViewUnet(NETWORK).parameters())


@pytest.mark.parametrize("strategy", [*STRATEGIES, "decoder+head"])
def test_fine_tuning_moves_the_named_modules_and_nothing_else(strategy, tmp_path, train, base):
    result = fit(replace(SMALL, strategy=strategy, steps=2), train, base=base, folder=tmp_path)
    before, after = load_network(base)[0].state_dict(), state(result)
    own = tuple(f"{module}." for module in result.config.modules)
    for name, tensor in before.items():
        if not name.startswith(own):
            assert torch.equal(tensor, after[name]), name
    learnt = [name for name, _ in module_parameters(result.network, result.config.modules)]
    moved = [name for name in learnt if not torch.equal(before[name], after[name])]
    # The bias of a convolution before a BatchNorm has no gradient but rounding.
    assert {n for n in learnt if n.endswith("weight")} <= set(moved)
    assert all(not torch.equal(before[n], after[n]) for n in before if n.startswith(own) and n.endswith("running_mean"))


@pytest.mark.parametrize("way", [w for w in WAYS if WAYS[w].get("strategy") == "adapter"])
def test_a_trained_adapter_is_saved_and_loaded_with_the_same_output(way, tmp_path, train, validation, base):
    result = fit(replace(SMALL, **WAYS[way]), train, validation, base, tmp_path)
    info = save_model(result, tmp_path / "adapter.safetensors")
    assert info.kind == "adapter" and info.base_digest == base.digest and info.threshold == result.threshold
    x = torch.rand(1, 1, 16, 16)
    result.network.to(memory_format=torch.contiguous_format)  # training lays weights out channels-last, which rounds otherwise
    with torch.no_grad():
        expected = result.network(x)
        assert torch.equal(load_adapted(base, info).eval()(x), expected)
        assert not torch.equal(load_network(base)[0](x), expected)
        merge(result.network)
        assert torch.allclose(result.network(x), expected, atol=1e-5)


def test_a_fine_tuned_network_names_its_base_and_a_base_names_none(tmp_path, train, base):
    tuned = save_model(fit(replace(SMALL, strategy="head"), train, base=base, folder=tmp_path / "a"), tmp_path / "tuned.safetensors")
    new = save_model(fit(SMALL, train, folder=tmp_path / "b"), tmp_path / "new.safetensors", metrics={"dice": 0.5})
    assert (tuned.kind, tuned.base_digest) == ("finetuned", base.digest)
    assert (new.kind, new.base_digest, new.metrics["dice"]) == ("base", None, 0.5)
    assert TrainingConfig.from_dict(read_info(new.path).training["config"]) == SMALL


def test_fine_tuning_without_a_base_is_refused(tmp_path, train):
    with pytest.raises(ConfigError, match="fine-tunes a base"):
        fit(replace(SMALL, strategy="all"), train, folder=tmp_path)


# ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_a_number_stops_with_step_and_advice(tmp_path, train, monkeypatch):
    steps = iter(range(10))

    def failing(*args):
        return segmentation_loss(*args) * (math.nan if next(steps) == 4 else 1.0)

    monkeypatch.setattr(training_loop, "segmentation_loss", failing)
    with pytest.raises(SAHLoRAError, match=r"step 5 \(learning rate .*0\.0003"):
        fit(SMALL, train, folder=tmp_path)


def test_patience_ends_a_training_that_gets_no_better(tmp_path, train, validation, base):
    """With a rate of next to nothing the first validation stays the best."""
    config = replace(SMALL, strategy="adapter", learning_rate=1e-9, steps=30, patience=2, ema=0.0)
    result = fit(config, train, validation, base, tmp_path)
    assert result.stopped_early and result.best_step == 3 and result.steps == 9


def test_without_validation_cases_the_last_weights_are_kept_with_the_bases_threshold(tmp_path, train, base):
    result = fit(replace(SMALL, strategy="head", ema=0.0), train, base=replace(base, threshold=0.4), folder=tmp_path)
    saved = read_checkpoint(tmp_path)[0]
    assert result.best is None and result.threshold == 0.4
    assert torch.equal(saved["weights.head.2.weight"], state(result)["head.2.weight"])


@pytest.mark.parametrize(("best_dice", "chosen"), [(0.0, 0.4), (0.3, 0.9), (math.nan, 0.9)])
def test_where_nothing_of_the_validation_blood_is_found_the_bases_threshold_stays(best_dice, chosen, tmp_path, train, validation, base, monkeypatch):
    """The single small bleed of a validation patient, say. NaN: no validation case has blood."""
    monkeypatch.setattr(training_loop, "validate", lambda *_, **__: (Score(best_dice, 0.01, 0.9, best_dice, 0.0, 2), []))
    events = Recorder()
    result = fit(replace(SMALL, strategy="head"), train, validation, replace(base, threshold=0.4), tmp_path, events)
    warned = [e["message"] for e in events.events if e["event"] == "log" and e["level"] == "warning"]
    assert result.threshold == chosen and any("stays at 0.4" in message for message in warned) == (chosen == 0.4)


def test_the_averaged_weights_are_the_ones_kept(tmp_path, train, base):
    result = fit(replace(SMALL, strategy="head", ema=0.9), train, base=base, folder=tmp_path)
    saved = read_checkpoint(tmp_path)[0]
    assert torch.equal(saved["average.head.2.weight"], state(result)["head.2.weight"])
    assert not torch.equal(saved["weights.head.2.weight"], saved["average.head.2.weight"])


def test_events_tell_stage_loss_and_validation(tmp_path, train, validation):
    events = Recorder()
    fit(SMALL, train, validation, folder=tmp_path, events=events, context={"fold": 2})
    curves = [e for e in events.events if e["event"] == "metric"]
    assert [e["step"] for e in curves if e["name"] == "loss"] == list(range(1, 8))
    assert [e["step"] for e in curves if e["name"] == "val_dice"] == [3, 6, 7]
    assert all(e["fold"] == 2 for e in curves)
    last = [e for e in events.events if e["event"] == "progress" and e["stage"] == "training"][-1]
    assert last["fraction"] == 1.0


def test_each_method_learns_at_its_own_rate_unless_one_is_given():
    plain = replace(SMALL, learning_rate=None)
    cp, whole = replace(plain, strategy="adapter"), replace(plain, strategy="all")
    assert cp.rate == default_rate("cp-lora") > whole.rate == default_rate("fine-tune:all") and replace(cp, learning_rate=0.2).rate == 0.2
    # A rate that is given and the same one by default are the same training.
    assert cp.identity() == replace(cp, learning_rate=cp.rate).identity() != replace(cp, learning_rate=0.2).identity()


def test_drawing_by_case_is_another_training(tmp_path, train, validation):
    by_case = replace(SMALL, draw_by="case")
    assert "geometry" not in SMALL.identity()["augmentation"]
    assert replace(SMALL, augmentation=Augmentation(geometry=1.0)).identity()["augmentation"]["geometry"] == 1.0
    assert "draw_by" not in SMALL.identity() and by_case.identity()["draw_by"] == "case"
    losses = [[entry["loss"] for entry in fit(c, train, validation, folder=tmp_path / c.draw_by).history] for c in (SMALL, by_case)]
    assert losses[0] != losses[1]


def test_the_learning_rate_rises_and_falls():
    rates = [SMALL.rate_at(step, 100) for step in range(100)]
    assert rates[0] < rates[4] == pytest.approx(SMALL.learning_rate) and rates[-1] < 0.02 * SMALL.learning_rate
    assert {replace(SMALL, schedule="constant").rate_at(step, 100) for step in (0, 50, 99)} == {SMALL.learning_rate}


# ── settings and devices ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_configuration_survives_json():
    config = replace(SMALL, strategy="decoder+head", augmentation=Augmentation("both", 0.5), adapter=AdapterConfig("tucker", norm="adapt"))
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    assert TrainingConfig.from_dict({}) == TrainingConfig()


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "elbow"}, {"learning_rate": 0.0}, {"learning_rate": "fast"}, {"batch": 0}, {"epochs": 1.5}, {"ema": 1.0}, {"crop": (30, 20)},
        {"crop": (8, 32)}, {"loss": "hinge"}, {"draw_by": "lot"},
        {"schedule": "step"}, {"positive_share": 2.0}, {"device": "tpu"}, {"precision": "int8"}, {"speed": 1},
        {"augmentation": {"kind": "none", "colour": 1}}, {"network": {"levels": 9}}, {"adapter": {"rank": 0}}, {"crop": 5},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        TrainingConfig.from_dict(wrong)


def test_the_grid_follows_the_networks_levels():
    assert TrainingConfig(network=NetworkConfig(levels=5), crop=(64, 64)).grid.multiple == 32


def test_what_is_asked_for_and_missing_is_refused_not_replaced(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA GPU"):
        choose_compute("cuda")
    with pytest.raises(ConfigError, match="Unknown device"):
        choose_compute("gpu")
    monkeypatch.setattr("SAHLoRALib.device._cpu_features", set)
    with pytest.raises(ConfigError, match="neither avx512_bf16 nor amx_bf16"):
        choose_compute("cpu", "bf16")
    compute = choose_compute("cpu", "auto")
    assert not compute.bf16 and "float32" in compute.reason


def test_auto_takes_bf16_on_a_processor_that_multiplies_in_it(monkeypatch):
    monkeypatch.setattr("SAHLoRALib.device._cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.setattr("SAHLoRALib.device._cpu_maker", lambda: "AuthenticAMD")
    assert bf16_support(torch.device("cpu"))[0] and choose_compute("cpu").bf16
    assert not choose_compute("cpu", "float32").bf16


def test_auto_takes_bf16_of_an_intel_processor_only_with_amx(monkeypatch):
    monkeypatch.setattr("SAHLoRALib.device._cpu_maker", lambda: "GenuineIntel")
    monkeypatch.setattr("SAHLoRALib.device._cpu_features", lambda: {"avx512_bf16"})
    slow = choose_compute("cpu")
    assert not slow.bf16 and "without AMX" in slow.reason
    assert choose_compute("cpu", "bf16").bf16
    monkeypatch.setattr("SAHLoRALib.device._cpu_features", lambda: {"avx512_bf16", "amx_bf16"})
    assert choose_compute("cpu").bf16
