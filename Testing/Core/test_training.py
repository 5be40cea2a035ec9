"""Training: what learns and what does not, cancel and resume, validation, loss, several processes."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from SAHLoRALib import training
from SAHLoRALib.adapters import AdapterConfig, merge
from SAHLoRALib.augment import Augmentation
from SAHLoRALib.checkpoint import FILE_NAME, read_checkpoint
from SAHLoRALib.device import bf16_support, choose_compute
from SAHLoRALib.errors import Cancelled, ConfigError, ModelError, SAHLoRAError
from SAHLoRALib.events import Events
from SAHLoRALib.loss import segmentation_loss
from SAHLoRALib.methods import default_rate
from SAHLoRALib.metrics import dice, soft_dice
from SAHLoRALib.network import MultiViewUnet, NetworkConfig
from SAHLoRALib.samples import CachedCase, SliceCache
from SAHLoRALib.slices import PixelGrid
from SAHLoRALib.strategies import STRATEGIES, module_parameters
from SAHLoRALib.training import TrainingConfig, fit, save_model
from SAHLoRALib.validation import FLAT, THRESHOLDS, CaseScore, summary, validate
from SAHLoRALib.weights import digest, load_adapted, load_network, read_info, save_base

NETWORK = NetworkConfig(levels=1, width=4, dilations=(1, 2))
GRID = PixelGrid(pixel_mm=4.0, multiple=2)
SMALL = TrainingConfig(
    strategy="scratch", network=NETWORK, grid=GRID, adapter=AdapterConfig(rank=2), steps=7, steps_per_epoch=3, batch=4, crop=(32, 32),
    precision="float32", device="cpu", threads=1, patience=0, learning_rate=3e-3,
)  # fmt: skip

#: One of every way in which weights move: all with batch statistics, adapters with each handling of BatchNorm, one module.
WAYS = {
    "scratch": {},
    "cp-lora": {"strategy": "adapter"},
    "dora-c affine": {"strategy": "adapter", "adapter": AdapterConfig("dora-c", rank=2, norm="affine")},
    "conv-lora adapt": {"strategy": "adapter", "adapter": AdapterConfig("conv-lora", rank=2, norm="adapt", modules=("encoder", "head"))},
    "decoder": {"strategy": "decoder"},
}


def made(name, seed, blood=True, count=8, rows=36, columns=30):
    """A cached head in which every other slice has a bright square."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(30, 4, (count, rows, columns))
    mask = np.zeros(hu.shape, np.uint8)
    for k in range(0, count if blood else 0, 2):
        y, x = rng.integers(4, 20, 2)
        mask[k, y : y + 8, x : x + 7] = 255
    hu[mask > 0] += 40
    hu[:, :3] = -1000
    return CachedCase(name, torch.from_numpy(hu).to(torch.int16), torch.from_numpy(mask), torch.full((count,), 0.08, dtype=torch.float64))


@pytest.fixture(scope="module")
def train():
    return SliceCache([made(f"t{i}", i) for i in range(3)], GRID)


@pytest.fixture(scope="module")
def validation():
    return SliceCache([made("v0", 10), made("v1", 11), made("clean", 12, blood=False)], GRID)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    return save_base(MultiViewUnet(NETWORK), tmp_path_factory.mktemp("models") / "base.safetensors", grid=GRID)


def based(config, base):
    return None if config.strategy == "scratch" else base


class CancelAt(Events):
    """Asks to stop once the loss of a step has been told; or fails there, as a crash would."""

    def __init__(self, step, crash=False):
        super().__init__()
        self.step, self.crash = step, crash

    def metric(self, name, value, step, **context):
        if name == "loss" and step == self.step:
            if self.crash:
                raise RuntimeError("power cut")
            self.cancel()


class Recorder(Events):
    def __init__(self):
        super().__init__()
        self.events = []

    def _emit(self, event, **fields):
        self.events.append({"event": event, **fields})


def state(result):
    return result.network.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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


# ── cancel, crash, resume ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_cancelled_training_resumes_to_the_weights_of_an_uninterrupted_one(way, stop, tmp_path, train, validation, base):
    config = replace(SMALL, **WAYS[way])
    whole = fit(config, train, validation, based(config, base), tmp_path / "whole")
    with pytest.raises(Cancelled, match=f"step {stop} of 7|Cancelled"):
        fit(config, train, validation, based(config, base), tmp_path / "parts", CancelAt(stop))
    assert read_checkpoint(tmp_path / "parts")[1]["step"] == stop
    resumed = fit(config, train, validation, based(config, base), tmp_path / "parts")
    assert same(state(whole), state(resumed))
    told = [[{k: v for k, v in entry.items() if k != "seconds"} for entry in r.history] for r in (whole, resumed)]
    assert told[0] == told[1] and (whole.best_step, whole.threshold) == (resumed.best_step, resumed.threshold)


def test_a_crash_costs_the_steps_since_the_last_checkpoint_and_nothing_else(tmp_path, train, validation):
    whole = fit(SMALL, train, validation, folder=tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(SMALL, train, validation, folder=tmp_path / "parts", events=CancelAt(5, crash=True))
    assert read_checkpoint(tmp_path / "parts")[1]["step"] == 3  # the end of the first epoch
    assert same(state(whole), state(fit(SMALL, train, validation, folder=tmp_path / "parts")))


def test_checkpoints_come_by_the_clock_too(tmp_path, train):
    config = replace(SMALL, checkpoint_seconds=0.0)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(config, train, folder=tmp_path, events=CancelAt(6, crash=True))
    assert read_checkpoint(tmp_path)[1]["step"] == 5


def test_a_finished_training_is_not_run_again(tmp_path, train, validation):
    first = fit(SMALL, train, validation, folder=tmp_path)
    events = Recorder()
    again = fit(SMALL, train, validation, folder=tmp_path, events=events)
    assert same(state(first), state(again))
    assert not [e for e in events.events if e["event"] == "metric"]


def test_resume_can_be_declined(tmp_path, train):
    fit(SMALL, train, folder=tmp_path)
    events = Recorder()
    fit(replace(SMALL, learning_rate=1e-2), train, folder=tmp_path, events=events, resume=False)
    assert sum(e["event"] == "metric" for e in events.events) == 7


def test_a_checkpoint_of_another_configuration_is_refused_by_name_of_the_setting(tmp_path, train, validation, base):
    fit(SMALL, train, validation, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.003, and is 0\.01 now"):
        fit(replace(SMALL, learning_rate=0.01), train, validation, folder=tmp_path)
    with pytest.raises(ConfigError, match="strategy was scratch"):
        fit(replace(SMALL, strategy="head"), train, validation, base, tmp_path)
    with pytest.raises(ConfigError, match="training cases"):
        fit(SMALL, SliceCache(train.cases[:2], GRID), validation, folder=tmp_path)
    fit(replace(SMALL, checkpoint_seconds=5.0), train, validation, folder=tmp_path)  # how, not what


def test_a_damaged_checkpoint_is_told(tmp_path, train):
    fit(SMALL, train, folder=tmp_path)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        fit(SMALL, train, folder=tmp_path)


def test_training_leaves_nothing_but_its_checkpoint(tmp_path, train):
    fit(SMALL, train, folder=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} - {".lock"} == {FILE_NAME}  # the lock that `files.alone` takes stays, empty


# ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_a_number_stops_with_step_and_advice(tmp_path, train, monkeypatch):
    steps = iter(range(10))

    def failing(*args):
        return segmentation_loss(*args) * (math.nan if next(steps) == 4 else 1.0)

    monkeypatch.setattr(training, "segmentation_loss", failing)
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


def test_the_learning_rate_rises_and_falls():
    rates = [SMALL.rate_at(step, 100) for step in range(100)]
    assert rates[0] < rates[4] == pytest.approx(SMALL.learning_rate) and rates[-1] < 0.02 * SMALL.learning_rate
    assert {replace(SMALL, schedule="constant").rate_at(step, 100) for step in (0, 50, 99)} == {SMALL.learning_rate}


# ── validation and loss ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_validation_gives_the_dice_of_whole_cases(validation):
    torch.manual_seed(1)
    network = MultiViewUnet(NETWORK).eval()
    score, cases = validate(network, validation, choose_compute("cpu", "float32"), batch=3)
    for case, told in zip(validation.cases, cases, strict=True):
        image = torch.nn.functional.pad(case.hu[:, None].float() / 140, (0, 0, 0, 0)).clamp(0, 1)
        with torch.no_grad():
            p = torch.sigmoid(network(image))[:, 0].numpy()
        mask = case.target.numpy()
        assert told.soft_dice == pytest.approx(soft_dice(p, mask), abs=1e-5)
        assert told.dice == pytest.approx([dice(p > t, mask) for t in THRESHOLDS], abs=1e-5)
        assert told.error_ml == pytest.approx([0.08 * abs(np.count_nonzero(p > t) - np.count_nonzero(mask)) for t in THRESHOLDS], rel=1e-4)
        assert told.false_ml == pytest.approx(0.08 * np.count_nonzero((p > 0.5) & ~mask), rel=1e-5)
    assert score.dice == pytest.approx(np.mean([c.dice[THRESHOLDS.index(0.5)] for c in cases[:2]]))
    assert score.false_ml == pytest.approx(cases[2].false_ml)


def test_the_threshold_is_the_one_with_the_best_mean_dice_and_rather_in_the_middle():
    def case(*best, true_ml=5.0):
        return CaseScore("c", tuple(0.8 if t in best else 0.4 for t in THRESHOLDS), (1.0,) * len(THRESHOLDS), 0.5, true_ml, 1.0)

    assert summary([case(0.35), case(0.35, 0.7)]).threshold == 0.35
    assert summary([case(0.3, 0.55, 0.7)]).threshold == 0.55
    assert summary([case(), case()]).threshold == 0.5
    clean = summary([case(0.3, true_ml=0.0)])
    assert clean.threshold == 0.5 and math.isnan(clean.dice) and clean.false_ml == 1.0


def test_where_dice_is_flat_the_threshold_is_the_one_that_measures_volumes_best():
    def case(dice_at, exact):
        return CaseScore("c", tuple(dice_at(t) for t in THRESHOLDS), tuple(abs(t - exact) for t in THRESHOLDS), 0.5, 5.0, 0.0)

    flat = summary([case(lambda t: 0.8 - FLAT * t, 0.3), case(lambda t: 0.8, 0.3)])
    assert flat.threshold == 0.3 and flat.best_dice == pytest.approx(0.8 - FLAT * 0.3 / 2)
    assert summary([case(lambda t: 0.8 - abs(t - 0.7), 0.3)]).threshold == 0.7  # volumes do not outweigh Dice


def test_an_adapter_of_half_strength_is_judged_as_it_is_merged(tmp_path, train, validation, base):
    """The same training as at full strength, whose checkpoint it goes on from; figures and threshold are those of the merged file."""
    adapter = AdapterConfig(rank=2, norm="adapt")
    config = replace(SMALL, strategy="adapter", adapter=adapter)
    whole = fit(config, train, validation, base, tmp_path / "run")
    half = fit(replace(config, adapter=replace(adapter, strength=0.5)), train, validation, base, tmp_path / "run")
    assert half.seconds >= whole.seconds and half.history == whole.history
    for result, name in ((whole, "whole"), (half, "half")):
        info = save_model(result, tmp_path / f"{name}.safetensors")
        score = validate(load_network(base, info)[0], validation, choose_compute("cpu", "auto"), batch=config.batch)[0]
        assert result.best is not None and score.soft_dice == pytest.approx(result.best.soft_dice, abs=1e-3)
        assert info.threshold == result.best.threshold
    assert half.best != whole.best


def test_the_loss_equals_monais_for_equal_weights():
    from monai.losses import DiceCELoss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 9, 7, generator=generator)
    target = (torch.rand(3, 1, 9, 7, generator=generator) < 0.2).float()
    expected = DiceCELoss(sigmoid=True, batch=True)(logits, target)
    assert segmentation_loss(logits, target, torch.ones(3)) == pytest.approx(float(expected), abs=1e-5)


def test_a_slice_of_weight_zero_has_no_gradient():
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    segmentation_loss(logits, torch.ones(2, 1, 8, 8), torch.tensor([1.0, 0.0])).backward()
    assert logits.grad is not None and logits.grad[0].abs().max() > 0 and logits.grad[1].abs().max() == 0


# ── settings and devices ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_configuration_survives_json():
    config = replace(SMALL, strategy="decoder+head", augmentation=Augmentation("both", 0.5), adapter=AdapterConfig("tucker", norm="adapt"))
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    assert TrainingConfig.from_dict({}) == TrainingConfig()


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "elbow"}, {"learning_rate": 0.0}, {"learning_rate": "fast"}, {"batch": 0}, {"epochs": 1.5}, {"ema": 1.0}, {"crop": (30, 20)},
        {"crop": (8, 32)}, {"loss": "hinge"}, {"schedule": "step"}, {"positive_share": 2.0}, {"device": "tpu"}, {"precision": "int8"}, {"speed": 1},
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
    assert bf16_support(torch.device("cpu"))[0] and choose_compute("cpu").bf16
    assert not choose_compute("cpu", "float32").bf16


# ── several processes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

PARALLEL = {way: {**WAYS[way], "ema": 0.9, "augmentation": Augmentation("both")} for way in ("scratch", "conv-lora adapt", "cp-lora")}


def _train_in_parallel(folder: Path) -> None:
    """Run by every process of the test below."""
    torch.set_num_threads(1)
    train = SliceCache([made(f"t{i}", i) for i in range(3)], GRID)
    validation = SliceCache([made("v0", 10), made("v1", 11), made("clean", 12, blood=False)], GRID)
    from SAHLoRALib.parallel import process_group

    with process_group("gloo"):
        for way, settings in PARALLEL.items():
            config = replace(SMALL, **settings)
            result = fit(config, train, validation, based(config, read_info(folder / "base.safetensors")), folder / way)
            if result.leads:
                merge(result.network) if config.strategy == "adapter" else None
                save_base(result.network, folder / f"{way.replace(' ', '-')}.safetensors", grid=GRID, training={"history": result.history})


@pytest.mark.slow
def test_two_processes_reach_the_losses_and_weights_of_one_with_the_whole_batch(tmp_path, train, validation):
    torch.manual_seed(0)
    base = save_base(MultiViewUnet(NETWORK), tmp_path / "base.safetensors", grid=GRID)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    paths = os.pathsep.join([str(Path(training.__file__).parents[1]), str(Path(__file__).parent)])
    code = f"import pathlib, test_training as t; t._train_in_parallel(pathlib.Path({str(tmp_path)!r}))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": paths, "WORLD_SIZE": "2", "RANK": str(r), "LOCAL_RANK": str(r), "MASTER_ADDR": "127.0.0.1",
                              "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
        )
        for r in range(2)
    ]  # fmt: skip
    assert [p.wait(timeout=240) for p in processes] == [0, 0]
    for way, settings in PARALLEL.items():
        config = replace(SMALL, **settings)
        alone = fit(config, train, validation, based(config, base), tmp_path / f"alone {way}")
        if config.strategy == "adapter":
            merge(alone.network)
        network, info = load_network(tmp_path / f"{way.replace(' ', '-')}.safetensors")
        for mine, theirs in zip(alone.history, info.training["history"], strict=True):
            assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-4)
            assert theirs["soft_dice"] == pytest.approx(mine["soft_dice"], abs=1e-3)
        for name, tensor in state(alone).items():
            if "running_" in name or name == "head.2.weight":
                assert torch.allclose(network.state_dict()[name], tensor, rtol=2e-2, atol=2e-3), (way, name)


def test_a_batch_that_cannot_be_spread_is_refused(tmp_path, train, monkeypatch):
    import contextlib

    from SAHLoRALib.parallel import Group

    monkeypatch.setattr(training, "process_group", lambda backend: contextlib.nullcontext(Group(0, 3)))
    with pytest.raises(ConfigError, match="cannot be spread over 3"):
        fit(SMALL, train, folder=tmp_path)


def test_torchruns_environment_must_be_complete(tmp_path, train, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        fit(SMALL, train, folder=tmp_path)


def test_the_digest_of_a_training_is_that_of_its_seed(tmp_path, train):
    digests = [digest(fit(replace(SMALL, seed=seed), train, folder=tmp_path / str(i)).network) for i, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]
