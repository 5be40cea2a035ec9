"""The loop of a training: slices in, a step, an epoch's validation, a checkpoint, and on from there.

Every step is a pure function of the weights, the seed and the step's number, and the whole state lies in one checkpoint: a training that was
cancelled or killed goes on where it stopped and ends, on the CPU with the same number of threads, with the same weights to the bit.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import attach, merge, trainable_parameters
from .ahead import Feed
from .augment import Batch, augment
from .checkpoint import check_same_training, read_checkpoint, write_checkpoint
from .device import Compute, peak_memory_mb
from .errors import Cancelled, ModelError, SAHLoRAError
from .events import Events
from .loss import segmentation_loss
from .network import MultiViewUnet
from .parallel import Group, pool_norms, unpool_norms
from .samples import SliceCache
from .strategies import StillBatchNorm2d, select_parameters
from .training_config import TrainingConfig
from .training_result import FitResult
from .validation import Score, validate
from .weights import ModelInfo, load_adapted, load_network
from .widening import widened

#: Mean Dice of the best threshold below which none was really chosen.
_NOTHING = 0.01


class TrainingLoop:
    """One training. What learns is in `moving` (parameters, and statistics of the BatchNorms that follow); nothing else ever changes."""

    def __init__(
        self, config: TrainingConfig, train: SliceCache, validation: SliceCache, base: ModelInfo | None, folder: Path, events: Events,
        compute: Compute, group: Group, context: dict[str, Any], start: ModelInfo | None = None,
    ) -> None:  # fmt: skip
        self.config, self.train, self.validation, self.base, self.folder = config, train, validation, base, folder
        self.events, self.compute, self.group, self.context = events, compute, group, context
        self.start_from = start
        self.network = _prepared(config, base, start).to(compute.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter less time a step on the CPU
        pool_norms(self.network, group)
        self.parameters = [p for _, p in trainable_parameters(self.network)]
        self.moving = _moving(self.network)
        self.optimiser = torch.optim.AdamW(self.parameters, lr=config.rate, weight_decay=config.weight_decay)
        self.average = {name: t.detach().clone() for name, t in self.moving.items()} if config.ema else {}
        self.best_weights: dict[str, Tensor] = {}
        self.steps_per_epoch = config.epoch_steps(len(train.positives))
        self.total = config.steps or config.epochs * self.steps_per_epoch
        self.step = 0
        self.best: Score | None = None
        self.best_step = 0
        self.stopped = False
        self.history: list[dict[str, Any]] = []
        self.losses: list[float] = []  # of the epoch that is going on
        self.seconds_before = 0.0
        self.start = self.saved_at = time.monotonic()

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def train_all(self) -> FitResult:
        if self.step == 0:
            self.events.log(
                f"Training {sum(p.numel() for p in self.parameters):,} numbers ({self.config.what}) on {len(self.train.positives)} slices with and "
                f"{len(self.train.negatives)} without blood of {len(self.train.cases)} cases: {self.total} steps."
            )
        self.network.train()
        feed = Feed(self.batch, self.compute.device, self.total)
        try:
            return self._loop(feed)
        finally:
            feed.close()

    def _loop(self, feed: Feed[Batch]) -> FitResult:
        while True:
            if self._epoch_is_due():
                self._end_epoch()
                self._save()
            if self.step == self.total or self.stopped:
                return self._result()
            self._check_cancel()
            loss = self.one_step(feed.batch(self.step))
            self.step += 1
            self.losses.append(loss)
            self.events.metric("loss", loss, self.step, **self.context)
            self.events.progress("training", self.step, self.total, f"epoch {1 + (self.step - 1) // self.steps_per_epoch}, step {self.step}")
            if time.monotonic() - self.saved_at > self.config.checkpoint_seconds and not self._epoch_is_due():
                self._save()

    def batch(self, step: int) -> Batch:
        """This process's part of a step's slices: a pure function of seed and step."""
        config, device = self.config, self.compute.device
        part = self.group.share(config.batch)
        hu, blood, sizes = self.train.gather(self.train.draw(config.seed, step, config.batch, config.positive_share, config.draw_by)[part])
        if device.type == "cuda":
            hu, blood = hu.pin_memory(), blood.pin_memory()
        seeds = [(config.seed, 2, step, i) for i in range(config.batch)][part]
        hu, blood = hu.to(device, non_blocking=True), blood.to(device, non_blocking=True)
        return augment(hu, blood, sizes, seeds, config.crop, config.grid.window, config.augmentation)

    def one_step(self, batch: Batch) -> float:
        """Learn from a batch; returns its loss. Raises SAHLoRAError where that is not a number."""
        config = self.config
        learning_rate = config.rate_at(self.step, self.total)
        for settings in self.optimiser.param_groups:
            settings["lr"] = learning_rate
        with self.compute.autocast():
            logits = self.network(batch.image.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits, batch.target, batch.weight, config.loss, self.group.pool)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SAHLoRAError(
                f"The loss is not a number at step {self.step + 1} (learning rate {learning_rate:g}); train again with a learning rate of "
                f"{config.rate / 10:g}, or with precision float32."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.group.add_gradients(self.parameters)
        if config.clip:
            nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimiser.step()
        if config.ema:
            decay = min(config.ema, (1 + self.step) / (10 + self.step))  # a young average forgets its start quickly
            with torch.no_grad():
                for name, tensor in self.moving.items():
                    average = self.average[name]
                    average.lerp_(tensor, 1 - decay) if average.is_floating_point() else average.copy_(tensor)
        return value

    def _epoch_is_due(self) -> bool:
        """An epoch's steps are done, its end is not: also after a cancel in the middle of validation."""
        ends = self.step == self.total or (self.step > 0 and self.step % self.steps_per_epoch == 0)
        return ends and (not self.history or self.history[-1]["step"] < self.step)

    def _end_epoch(self) -> None:
        """Validate when it is time, keep the best weights, decide about stopping early."""
        epoch = math.ceil(self.step / self.steps_per_epoch)
        entry: dict[str, Any] = {
            "epoch": epoch, "step": self.step, "loss": sum(self.losses) / max(1, len(self.losses)),
            "learning_rate": self.config.rate_at(self.step - 1, self.total), "seconds": round(self.seconds, 1),
        }  # fmt: skip
        if self.validation.cases and (epoch % self.config.validate_every == 0 or self.step == self.total):
            score = self._validate()
            entry |= score.as_dict()
            for name in ("dice", "soft_dice", "false_ml"):
                if not math.isnan(getattr(score, name)):
                    self.events.metric(f"val_{name}", getattr(score, name), self.step, **self.context)
            if self.best is None or _goodness(score) > _goodness(self.best):
                self.best, self.best_step = score, self.step
                self.best_weights = {name: t.detach().to("cpu", copy=True) for name, t in self._shipped().items()}
            waited = sum(1 for e in self.history if "dice" in e and e["step"] > self.best_step) + (self.step > self.best_step)
            self.stopped = bool(self.config.patience) and waited >= self.config.patience
            self.events.log(
                f"epoch {epoch}, step {self.step}: loss {entry['loss']:.3f}, validation Dice {score.dice:.3f} (soft {score.soft_dice:.3f}"
                + (f", false {score.false_ml:.1f} mL" if not math.isnan(score.false_ml) else "")
                + f"), best {self.best.dice:.3f} at step {self.best_step}"
            )
        self.history.append(entry)
        self.losses = []

    def _validate(self) -> Score:
        """On the averaged weights where there are some; the network goes on from its own."""
        own = {name: t.detach().clone() for name, t in self.moving.items()}
        self._put(self._shipped())
        self.network.eval()
        try:
            return validate(self.network, self.validation, self.compute, batch=self.config.batch, group=self.group, events=self.events)[0]
        except Cancelled:
            self._put(own)
            self._save()
            raise
        finally:
            self._put(own)
            self.network.train()

    def _judge_strength(self) -> None:
        """Weights were chosen at full strength; the figures and the threshold are those of the network as it will be merged."""
        merged = copy.deepcopy(self.network)
        unpool_norms(merged)
        merge(merged)
        self.best = validate(merged.eval(), self.validation, self.compute, batch=self.config.batch, group=self.group, events=self.events)[0]
        self.events.log(
            f"At a strength of {self.config.adapter.strength:g}: validation Dice {self.best.best_dice:.3f} at threshold {self.best.threshold:g}."
        )

    def _shipped(self) -> dict[str, Tensor]:
        return self.average or self.moving

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.moving.items():
                tensor.copy_(values[name])

    def _result(self) -> FitResult:
        self._put(self.best_weights or self._shipped())
        if self.best and self.config.strategy == "adapter" and self.config.adapter.strength < 1:
            self._judge_strength()
        unpool_norms(self.network)
        return FitResult(
            self.network.cpu().eval(), self.config, self.base, self.history, self.best, self.best_step or self.step, self._threshold(), self.step,
            sum(p.numel() for p in self.parameters), self.seconds, peak_memory_mb(self.compute.device), self.stopped,
            (self.compute.reason,), self.group.leads, self.start_from,
        )  # fmt: skip

    def _threshold(self) -> float:
        """The one that validation chose; the start's where there was no validation, or where it found nothing at any and so had no choice."""
        start = self.start_from or self.base
        before = start.threshold if start else 0.5
        if self.best is None:
            return before
        if self.best.best_dice < _NOTHING:
            self.events.log(
                f"Whatever the threshold, the network finds nothing of the validation cases' blood, so the threshold stays at {before:g}. "
                "Train for longer, or give more validation cases, and such with larger bleeds.",
                "warning",
            )
            return before
        return self.best.threshold

    # ── cancel and resume ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_cancel(self) -> None:
        if self.group.any(self.events.cancel_requested, self.compute.device):
            self._save()
            raise Cancelled(f"Cancelled at step {self.step} of {self.total}. The same command goes on from there ({self.folder}).")

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.start

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on."""
        start = {"model that is gone on from": self.start_from.digest} if self.start_from else {}
        full = replace(self.config, adapter=replace(self.config.adapter, strength=1.0))  # what is learnt does not depend on it
        return {
            "config": full.identity(),
            "base": self.base.digest if self.base else None,
            "training cases": self.train.fingerprint(),
            "validation cases": self.validation.fingerprint(),
            "training masks": self.train.masks,
            "validation masks": self.validation.masks,
            **start,
        }

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if not self.group.leads:
            return
        tensors = {f"weights.{name}": t for name, t in self.moving.items()}
        tensors |= {f"average.{name}": t for name, t in self.average.items()}
        tensors |= {f"best.{name}": t for name, t in self.best_weights.items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": t for name, t in state.items()}
        state = {
            "identity": self._identity(), "step": self.step, "best": asdict(self.best) if self.best else None, "best_step": self.best_step,
            "stopped": self.stopped, "history": self.history, "losses": self.losses, "seconds": self.seconds,
        }  # fmt: skip
        write_checkpoint(self.folder, tensors, state)

    def restore(self) -> None:
        """Go on from the folder's checkpoint, if there is one. Raises ConfigError when it belongs to another training, ModelError."""
        found = read_checkpoint(self.folder)
        if found is None:
            return
        tensors, state = found
        saved = state["identity"]
        unsaid = {"training masks", "validation masks"} - set(saved)  # a checkpoint of an earlier version
        check_same_training(self.folder, saved, {name: value for name, value in self._identity().items() if name not in unsaid})
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "best": {}, "optimiser": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        if set(groups["weights"]) != set(self.moving) or set(groups["average"]) != set(self.average):
            raise ModelError(f"The checkpoint in {self.folder} does not fit the network; delete it to start the training anew.")
        self._put(groups["weights"])
        for name, tensor in self.average.items():
            tensor.copy_(groups["average"][name])
        self.best_weights = groups["best"]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["optimiser"].items():
            number, _, slot = name.partition(".")
            slots.setdefault(int(number), {})[slot] = tensor
        self.optimiser.load_state_dict({"state": slots, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.step, self.best_step, self.stopped = state["step"], state["best_step"], state["stopped"]
        self.best = Score(**state["best"]) if state["best"] else None
        self.history, self.losses, self.seconds_before = state["history"], state["losses"], state["seconds"]
        self.events.log(f"Going on from the checkpoint at step {self.step} of {self.total} in {self.folder}.")


def _prepared(config: TrainingConfig, base: ModelInfo | None, start: ModelInfo | None = None) -> MultiViewUnet:
    """The network at the start, with what learns set free and all else frozen, BatchNorm statistics too."""
    if base is None and start is not None:
        return widened(load_network(start)[0], config.network, config.seed)
    if base is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return MultiViewUnet(config.network)
    if start is not None:
        return load_adapted(base, start)
    network = load_network(base)[0]
    if config.strategy == "adapter":
        attach(network, config.adapter, config.seed)
    else:
        select_parameters(network, config.modules)
    return network


def _moving(network: nn.Module) -> dict[str, Tensor]:
    """All that training changes, live, by its name in the network."""
    moving: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and not isinstance(layer, StillBatchNorm2d):
            moving |= {f"{name}.{part}": buffer for part, buffer in layer.named_buffers()}
    return moving


def _goodness(score: Score) -> float:
    """Dice; without any case with blood, little false blood."""
    return -score.false_ml if math.isnan(score.dice) else score.dice
