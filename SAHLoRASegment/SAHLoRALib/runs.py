"""A run: one training on one part of the cases, and what it predicts on the others. Cross-validations and studies are made of runs.

Every run has a folder of its own, named after a digest of all that decides its result (settings, base, cases of each part): a finished run is found
again and never done twice, and a changed setting or case makes another run. In the folder lie the checkpoint while it is going on,
model.safetensors, predictions/ (a mask for each test case on the scan's own grid) and, last of all, run.json. Predictions are made by the
`Segmenter` that users run, so the figures are those that a user gets.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__
from .batch import Within
from .cases import CaseTable
from .checkpoint import FILE_NAME as CHECKPOINT
from .cohort import Cohort
from .ct import write_segmentation
from .device import choose_compute, threads
from .errors import DAMAGED, ConfigError, SAHLoRAError
from .evaluation import labels_of
from .events import Events
from .files import replacing, sweep, write_text
from .metrics import case_metrics
from .parallel import Group
from .provenance import SCANS, program
from .samples import SliceCache
from .segmenter import SegmentConfig, Segmenter
from .training import fit, save_model
from .training_config import TrainingConfig
from .validation import Score, validate
from .weights import ModelInfo, load_network, read_info

FORMAT = 1
RESULT = "run.json"
MODEL = "model.safetensors"
PREDICTIONS = "predictions"
ZERO_SHOT = "zero-shot"
#: Label of the base as it is, but for a threshold that is chosen on the validation cases of each fold, as the fine-tuned networks choose theirs.
ZERO_SHOT_CHOSEN = "zero-shot, chosen threshold"
#: Share of a run's time that training takes; for the progress only.
_TRAINING_SHARE = 0.85


@dataclass(frozen=True)
class Run:
    """What is to be done; plain data, so that it can travel to another machine.

    method: an adapter method, a fine-tuning strategy, "scratch", or ZERO_SHOT for the base as it is. rank: of the adapter, 0 where there is none.
    label: for people and tables; runs of one label are the folds of one method. fold: from 0, None without folds. config: of ZERO_SHOT only device
    and precision count. training, validation, test: names of cases; of ZERO_SHOT, validation cases choose the threshold, and without any it is the
    base's. digest: see `run_digest`. scans: what `RunResult` keeps of them.
    variant: settings and label of its own, named in the study's file. fallback: the threshold where none is chosen, of the base or of the adapter
    that is gone on from, which is no part of their digests; a run that fell back on another is not finished. None where one is always chosen.
    """

    method: str
    rank: int
    label: str
    fold: int | None
    config: TrainingConfig
    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    digest: str
    variant: bool = False
    scans: tuple[str, ...] | None = None
    fallback: float | None = None

    @property
    def trains(self) -> bool:
        return self.method != ZERO_SHOT

    @property
    def name(self) -> str:
        """Of its folder: cp-lora-r8-fold1-3fa9c2d1e0."""
        words = [self.method, f"r{self.rank}" if self.rank else "", "" if self.fold is None else f"fold{self.fold + 1}", self.digest[:10]]
        return re.sub(r"[^a-z0-9+-]+", "-", "-".join(word for word in words if word))

    @property
    def title(self) -> str:
        """For progress and log: cp-lora, rank 8, fold 1."""
        return self.label if self.fold is None else f"{self.label}, fold {self.fold + 1}"


@dataclass(frozen=True)
class RunResult:
    """What came out. rows: `case_metrics` of every test case, with case, patient and site. trainable: how many numbers learnt. file_bytes: of the
    model that a user would need beside the base. seconds: of training; predict_seconds: of segmenting all test cases. peak_memory_mb: of the process
    while it trained, its libraries and cached slices included. best_step: whose weights were kept; best_epoch: the same in epochs. validated_on: the
    names of the validation cases, None where an older version wrote the result. scans: digests of the scans that were learnt from or chose weights
    and threshold, also in the trainings that this one went on from, so that they are known again under other names; None where they are not known.
    program: what did it (`provenance.program`), empty where an older version did.
    """

    digest: str
    label: str
    fold: int | None
    rows: list[dict[str, Any]]
    trainable: int = 0
    file_bytes: int = 0
    seconds: float = 0.0
    predict_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    steps: int = 0
    best_step: int = 0
    best_epoch: float = 0.0
    stopped_early: bool = False
    threshold: float = 0.5
    validation: dict[str, Any] | None = None
    validated_on: list[str] | None = None
    scans: list[str] | None = None
    history: list[dict[str, Any]] | None = None
    computing: str = ""
    date: str = ""
    version: str = __version__
    program: str = ""


def effective(config: TrainingConfig, base: ModelInfo | None) -> TrainingConfig:
    """The settings as `fit` will run them: the learning rate is said, and network and grid are the base's, but for training from scratch."""
    config = replace(config, learning_rate=config.rate)
    return config if config.strategy == "scratch" or base is None else replace(config, network=base.network, grid=base.grid)


def run_digest(
    config: TrainingConfig | None, base: ModelInfo | None, parts: Iterable[Iterable[str]], digests: Mapping[str, str], start: ModelInfo | None = None
) -> str:
    """64 hexadecimal digits over settings, base, the adapter that is gone on from, and the cases of the three parts (training, validation, test)."""
    used = None if config is not None and config.strategy == "scratch" else base
    content = {
        "format": FORMAT,
        "config": config.identity() if config else None,
        "base": used.digest if used else None,
        "parts": [[(name, digests[name]) for name in part] for part in parts],
    }
    if start is not None:
        content["start"] = start.digest
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def finished(run: Run, folder: Path) -> RunResult | None:
    """The result of a run that was done before; None where it must be done (again). folder: of all runs."""
    path = folder / run.name / RESULT
    with contextlib.suppress(OSError, *DAMAGED):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT or content["digest"] != run.digest or content.pop("complete") is not True:
            return None
        content["rows"] = [{k: math.nan if v is None else v for k, v in row.items()} for row in content["rows"]]
        result = replace(RunResult(**content), label=run.label)
        chosen = result.validation is not None and result.threshold == result.validation.get("threshold")
        return result if chosen or run.fallback in (None, result.threshold) else None
    return None


def relabelled(result: RunResult, table: CaseTable) -> RunResult:
    """The result with patient and site of the table as it is now: they may have been corrected since the run, which depends on the voxels only."""
    return replace(result, rows=[row | labels_of(table[row["case"]]) for row in result.rows])


def execute(
    run: Run, cohort: Cohort, folder: Path, events: Events, *, place: tuple[int, int] = (0, 1), stage: str = "Training", group: Group | None = None,
    start: ModelInfo | None = None,
) -> RunResult:  # fmt: skip
    """Do a run, or go on with it; returns its result at once when it is finished already. folder: of all runs.

    place: (number, total) of the run among others, for the progress of the whole, which is called `stage`. group: the processes of torchrun, which
    all call this; test cases are spread over them. start: the adapter that training goes on from, or of ZERO_SHOT the one that segments. Raises
    SAHLoRAError, Cancelled after a checkpoint.
    """
    group = group or Group()
    done = finished(run, folder)
    here = folder / run.name
    if group.leads:
        sweep(here / PREDICTIONS)
        if done is not None:
            tidy(here, done)
    wait_for_all(group, run.config)
    if done is not None:
        return done
    number, total = place
    events.check_cancel()
    if group.leads:
        if finished(replace(run, fallback=None), folder) is not None:
            events.log(
                f"{run.title} is done again: what it starts from has a threshold of {run.fallback:g} now, and had another one then.", "warning"
            )
        with contextlib.suppress(OSError):
            (here / RESULT).unlink(missing_ok=True)  # what it tells of is written over from here on
    scans = None if run.scans is None else list(run.scans)
    result = RunResult(run.digest, run.label, run.fold, [], validated_on=list(run.validation), scans=scans, program=program())
    if not run.trains:
        if cohort.base is None:
            raise ConfigError("There is no base whose predictions could be measured without fine-tuning; name one.")
        info = start or cohort.base
        if run.validation:
            score = choose_threshold(info, cohort.slices(run.validation, info.grid, events), run.config, group, events)
            info = replace(info, threshold=score.threshold)
            result = replace(result, validation=score.as_dict())
    else:
        config = effective(run.config, cohort.base)
        caches = [cohort.slices(names, config.grid, events) for names in (run.training, run.validation)]
        _reset_peak_memory()
        context = {"run": run.label, "method": run.method, "rank": run.rank, "fold": run.fold}
        told = _Named(events, stage, number, _TRAINING_SHARE, total, run.title)
        trained = fit(config, caches[0], caches[1], cohort.base, here, told, context=context, start=start)
        if group.leads:
            save_model(trained, here / MODEL, training={"run": run.digest, "cases": len(run.training), SCANS: list(run.scans or ())})
        wait_for_all(group, config)
        info = read_info(here / MODEL)
        result = replace(
            result, trainable=trained.trainable, file_bytes=(here / MODEL).stat().st_size, seconds=round(trained.seconds, 3),
            peak_memory_mb=round(trained.peak_memory_mb, 1), steps=trained.steps, best_step=trained.best_step,
            best_epoch=trained.best_step / config.epoch_steps(len(caches[0].positives)),
            stopped_early=trained.stopped_early, threshold=trained.threshold,
            validation=trained.best.as_dict() if trained.best else None, history=trained.history, computing=" ".join(trained.notes),
        )  # fmt: skip
    began = time.monotonic()
    share = _TRAINING_SHARE if run.trains else 0.0
    told = _Named(events, stage, number + share, 1 - share, total, run.title)
    rows = _predict(run, cohort, info, here, told, group) if run.test else []
    if group.leads:
        result = replace(
            result, rows=rows, predict_seconds=round(time.monotonic() - began, 3),
            threshold=info.threshold, date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        _write_result(here, result)
    wait_for_all(group, run.config)
    written = finished(run, folder)
    if written is None:
        raise SAHLoRAError(f"The result of {run.title} in {here} cannot be read back; check the disk, and run the same command again.")
    return written


def choose_threshold(base: ModelInfo, cases: SliceCache, config: TrainingConfig, group: Group | None = None, events: Events | None = None) -> Score:
    """How a whole network does on validation cases without learning from any, chosen threshold included, just as `fit` chooses its own."""
    compute = choose_compute(config.device, config.precision)
    with threads(config.threads):
        network = load_network(base)[0].to(compute.device)
        return validate(network, cases, compute, batch=config.batch, group=group, events=events)[0]


def wait_for_all(group: Group, config: TrainingConfig) -> None:
    """Until every process of the group has come here."""
    if group.size > 1:
        group.any(False, choose_compute(config.device, "float32").device)


def load_segmenter(info: ModelInfo, base: ModelInfo | None, config: TrainingConfig) -> Segmenter:
    """The segmenter that a user of this model runs, on the device of the training."""
    settings = SegmentConfig(device=config.device, precision=config.precision)  # type: ignore[arg-type]
    if info.stands_alone:
        return Segmenter(load_network(info)[0], info, None, settings)
    assert base is not None
    return Segmenter(load_network(base, info)[0], base, info, settings)


def _predict(run: Run, cohort: Cohort, info: ModelInfo, here: Path, events: Events, group: Group) -> list[dict[str, Any]]:
    """Segment and measure the test cases; each case's figures are written with its mask, so a cancel loses one case at most."""
    segmenter = load_segmenter(info, cohort.base, run.config)
    for number in range(group.rank, len(run.test), group.size):
        name = run.test[number]
        events.check_cancel()
        events.progress("predicting", number, len(run.test), f"predicting {name}")
        if _read_row(here, name, info) is not None:
            continue
        case = cohort.table[name]
        ct, reference = cohort.read(name)
        found = segmenter.segment(ct, Within(events, "predicting", number, 1, len(run.test), "predicting"), keep_probability=True)
        row = {**labels_of(case), **case_metrics(found.mask, found.probability, reference, ct)}
        write_segmentation(found.mask, ct, here / PREDICTIONS / f"{name}.nrrd")
        write_text(_row_path(here, name), json.dumps({"model": info.digest, "threshold": info.threshold, "row": _plain(row)}))
    events.progress("predicting", 1, 1)
    wait_for_all(group, run.config)
    rows = [_read_row(here, name, info) for name in run.test]
    return [row for row in rows if row is not None]


def _row_path(here: Path, name: str) -> Path:
    return here / PREDICTIONS / f"{name}.json"


def _read_row(here: Path, name: str, model: ModelInfo) -> dict[str, Any] | None:
    """The figures of a case, where they were measured with this very model and threshold and its mask is there."""
    with contextlib.suppress(OSError, *DAMAGED):
        content = json.loads(_row_path(here, name).read_text(encoding="utf-8"))
        if (content["model"], content["threshold"]) == (model.digest, model.threshold) and (here / PREDICTIONS / f"{name}.nrrd").is_file():
            return dict(content["row"])
    return None


def _write_result(here: Path, result: RunResult) -> None:
    """Its presence says that the run is complete."""
    write_text(here / RESULT, json.dumps({"format": FORMAT, "complete": True, **_plain(asdict(result))}, indent=1, allow_nan=False) + "\n")
    tidy(here, result)


def tidy(here: Path, result: RunResult) -> None:
    """Take away what a finished run needs no more: its checkpoint, its cases' figures. Called again for one that was killed before it came to it."""
    with contextlib.suppress(OSError):
        (here / CHECKPOINT).unlink(missing_ok=True)
        for row in result.rows:
            _row_path(here, str(row["case"])).unlink(missing_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """A copy that is there as a whole or not at all (OutputError)."""
    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())


class _Named(Within):
    """A run's events: its progress is a part of the whole's, its log lines say whose they are."""

    def log(self, message: str, level: str = "info") -> None:
        super().log(f"{self._name}: {message}", level)


def _reset_peak_memory() -> None:
    """Let `peak_memory_mb` count from here. Linux and CUDA can; elsewhere it stays the largest of the process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _plain(value: Any) -> Any:
    """JSON without NaN and numpy numbers."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
