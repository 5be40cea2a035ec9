"""Hands runs and scans to the workers of a dask.distributed cluster, and brings back their results and events.

    dask scheduler                                    # on one machine: prints its address
    dask worker tcp://host:8786 --nthreads 1          # on each machine or GPU, with SAHLoRA installed
    sahlora study --file study.yaml --dask tcp://host:8786

Workers see the same folders (a shared file system): they read the cases and write into the run folders themselves. When a worker dies, its work goes
to another one, which goes on from the run's checkpoint; finished runs are not done again, so nothing is lost. A cancel reaches the workers as a file
in the output folder. dask is an optional extra: pip install distributed. Its workers compute on one thread unless told otherwise; on machines
without a GPU give the threads of a run with --training.threads.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batch import Outputs, ScanResult, earlier_rows, folder_names, keep_summary, segment_scan, write_summary
from .cohort import Cohort
from .errors import Cancelled, OutputError, SAHLoRAError
from .events import Events
from .inputs import ScanInput
from .runs import Run, RunResult
from .segmenter import NONE, SegmentConfig, Segmenter
from .study import STAGE, Executor, Outcomes, Work, attempt
from .weights import ModelInfo

if TYPE_CHECKING:
    from distributed import Client, Future

#: Seconds until the scheduler must have answered; between two looks at the work.
CONNECT_SECONDS, LOOK_SECONDS = 20.0, 0.3
#: How often work is handed out again after dask gave it up, which it does when several workers died under it.
MOST_TRIES = 3
#: Seconds between two messages of a worker.
_TELL_SECONDS = 0.5
#: Seconds without any worker until that is said.
_LONELY_SECONDS = 10.0


def on_cluster(address: str) -> Executor:
    """Does the runs of a study on the cluster whose scheduler has this address. Raises SAHLoRAError where it cannot be reached."""

    def do(work: Work, runs: Sequence[Run], events: Events) -> Outcomes:
        shared = _everywhere(work)
        jobs = {run.digest: (run, shared) for run in runs}
        titles = {run.digest: run.title for run in runs}
        outcomes: Outcomes = {}
        for digest, outcome in hand_out(address, _do_run, jobs, titles, events, STAGE, work.folder):
            outcomes[digest] = outcome
            if isinstance(outcome, str):
                events.log(f"{titles[digest]} failed: {outcome}", "warning")
        return outcomes

    return do


def segment_on_cluster(
    address: str,
    base: ModelInfo,
    adapter: ModelInfo | None,
    settings: SegmentConfig,
    scans: Sequence[ScanInput],
    outputs: Outputs,
    events: Events,
    series: str | None = None,
) -> list[ScanResult]:
    """`batch.segment_batch` on a cluster: the same files, the same summary, a result for every scan in the order given."""
    outputs = replace(outputs, folder=outputs.folder.absolute())
    names = folder_names(scans, outputs.folder, events)
    earlier = earlier_rows(outputs.folder, names)
    models = (str(base.path.absolute()), str(adapter.path.absolute()) if adapter else NONE)
    digests = (base.digest, adapter.digest if adapter else "")
    jobs = {
        name: (ScanInput(scan.path.absolute(), name), outputs, models, digests, settings, series) for scan, name in zip(scans, names, strict=True)
    }
    results: dict[str, ScanResult] = {}
    write_summary([], outputs.folder, earlier)  # says at once where nothing can be written
    for name, outcome in hand_out(address, _do_scan, jobs, {name: name for name in names}, events, "Segmenting", outputs.folder):
        scan = jobs[name][0]
        results[name] = outcome if isinstance(outcome, ScanResult) else ScanResult(scan, error=outcome)
        if results[name].error and len(scans) > 1:
            events.log(f"{name}: {results[name].error}", "warning")
        keep_summary([results[n] for n in names if n in results], outputs.folder, earlier, events, last=len(results) == len(names))
    return [results[name] for name in names]


def hand_out(
    address: str,
    function: Callable[..., Any],
    jobs: Mapping[str, tuple[Any, ...]],
    titles: Mapping[str, str],
    events: Events,
    stage: str,
    folder: Path,
) -> Iterator[tuple[str, Any]]:
    """Do function(*job, channel) for every job on some worker; yields (key, what it returned, or a sentence) as they end.

    folder: seen by all; a file in it tells the workers of a cancel. Raises SAHLoRAError (no scheduler, connection lost), Cancelled once all workers
    have stopped, and what a worker raised of the kinds that concern all work (OutputError).
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise SAHLoRAError("Work on a cluster needs dask; install it with: pip install distributed.") from error
    folder.mkdir(parents=True, exist_ok=True)
    channel = f"sahlora-{uuid.uuid4().hex[:12]}"
    stop = folder.absolute() / f".cancel-{channel}"
    with _connected(address, distributed) as client:
        inbox: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        client.subscribe_topic(channel, lambda message: inbox.put(message[1]))
        desk = _Desk(client, function, jobs, channel, stop)
        shares: dict[str, float] = {}
        done, lonely_since, asked = 0, time.monotonic(), False
        _greet(client, events)
        try:
            while desk.waiting:
                for future, key in desk.ended():
                    outcome = desk.outcome(future, key)
                    if outcome is _AGAIN:
                        events.log(f"{titles[key]}: handed out again after workers were lost.", "warning")
                        continue
                    done += 1
                    shares.pop(key, None)
                    if not isinstance(outcome, Cancelled):
                        yield key, outcome
                _forward(inbox, events, shares)
                workers = len(client.ncores())
                if workers:
                    lonely_since = time.monotonic()
                elif time.monotonic() - lonely_since > _LONELY_SECONDS:
                    lonely_since = time.monotonic() + 6 * _LONELY_SECONDS
                    events.log(f"The cluster {address} has no worker now; the work goes on when one comes.", "warning")
                events.progress(stage, done + sum(shares.values()), len(jobs), f"{len(shares)} under way on {workers} workers")
                if events.cancel_requested and not asked:
                    asked = True
                    stop.touch()
                if asked and not workers:
                    break
            _forward(inbox, events, shares)
            if asked:
                raise Cancelled("Cancelled. What was finished before is kept; the same command goes on from there.")
        finally:
            client.cancel(list(desk.waiting))
            with contextlib.suppress(OSError):
                # Left early (a second Ctrl-C, a full disk), the workers are still at it: the file stays and stops them.
                stop.touch() if desk.waiting else stop.unlink(missing_ok=True)


class _Desk:
    """The futures that are under way, and what becomes of them. waiting: future → key of its job."""

    def __init__(self, client: Client, function: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], channel: str, stop: Path) -> None:
        self._client, self._function, self._jobs = client, function, jobs
        self._channel, self._stop = channel, stop
        self._tries: dict[str, int] = {}
        self._rung = threading.Event()
        self.waiting: dict[Future, str] = {}
        for key in jobs:
            self._submit(key)

    def _submit(self, key: str) -> None:
        self._tries[key] = self._tries.get(key, 0) + 1
        name = f"{self._channel}-{self._tries[key]}-{key[:40]}"
        future = self._client.submit(self._function, *self._jobs[key], (self._channel, key, str(self._stop)), key=name, pure=False)
        self.waiting[future] = key
        future.add_done_callback(lambda _: self._rung.set())

    def ended(self) -> list[tuple[Future, str]]:
        """Those that have ended since the last call; waits a moment for the first."""
        if self._client.status != "running":
            raise SAHLoRAError("The connection to the dask scheduler was lost. What was finished is kept; run the same command again.")
        self._rung.wait(LOOK_SECONDS)
        self._rung.clear()
        return [(future, key) for future, key in self.waiting.items() if future.status != "pending"]

    def outcome(self, future: Future, key: str) -> Any:
        """What the job returned, a sentence where it failed, a Cancelled, or _AGAIN where it was handed out once more."""
        from distributed.scheduler import KilledWorker

        del self.waiting[future]
        lost = future.status in ("cancelled", "lost")
        if not lost:
            try:
                return future.result(timeout=CONNECT_SECONDS)
            except Cancelled as error:
                return error
            except OutputError:
                raise
            except KilledWorker:
                lost = True
            except SAHLoRAError as error:
                return str(error)
            except ModuleNotFoundError as error:
                return f"A worker has no Python package {error.name}; install SAHLoRA with its dependencies on every machine of the cluster."
            except Exception as error:
                return f"A worker failed: {type(error).__name__}: {error}"
        if self._tries[key] >= MOST_TRIES:
            return "All workers that tried this were lost; perhaps their memory does not suffice."
        self._submit(key)
        return _AGAIN


_AGAIN = object()


@contextlib.contextmanager
def _connected(address: str, distributed: Any) -> Iterator[Client]:
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise SAHLoRAError(f"No dask scheduler answers at {address}; start one with `dask scheduler` and give the address that it prints.") from error
    try:
        yield client
    finally:
        client.close(timeout=5)


def _greet(client: Client, events: Events) -> None:
    workers = client.ncores()
    events.log(f"Handing the work to {len(workers)} dask workers.")
    most = max(workers.values(), default=1)
    if most > 1:
        events.log(f"A worker has {most} threads, but does one thing at a time: start workers with --nthreads 1, and more of them.", "warning")


def _forward(inbox: queue.SimpleQueue[Mapping[str, Any]], events: Events, shares: dict[str, float]) -> None:
    """Hand on what workers told since the last call."""
    with contextlib.suppress(queue.Empty):
        while True:
            message = inbox.get_nowait()
            shares[message["key"]] = message["share"]
            for kind, fields in message["events"]:
                events._emit(kind, **fields)


# ── on a worker ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

#: torch's cache of adapted kernels and its number of threads belong to the whole process.
_one_at_a_time = threading.Lock()
_cohorts: dict[str, Cohort] = {}
_segmenters: dict[tuple[Any, ...], Segmenter] = {}


class _Told(Events):
    """A worker's events: collected, and sent to the client from time to time."""

    def __init__(self, channel: str, key: str, stop: str) -> None:
        super().__init__(Path(stop))
        self._channel, self._key, self._share = channel, key, 0.0
        self._held: list[tuple[str, dict[str, Any]]] = []
        self._sent = 0.0

    def progress(self, stage: str, done: float, total: float, detail: str = "") -> None:
        self._share = min(1.0, done / total) if total else 0.0
        if time.monotonic() - self._sent > _TELL_SECONDS:
            self.send()

    def _emit(self, event: str, **fields: Any) -> None:
        self._held.append((event, fields))

    def send(self) -> None:
        """Events are a courtesy: what cannot be sent does not stop the work."""
        from distributed import get_worker

        with contextlib.suppress(Exception):
            get_worker().log_event(self._channel, {"key": self._key, "share": self._share, "events": self._held})
        self._held, self._sent = [], time.monotonic()


def _do_run(run: Run, work: Work, told: tuple[str, str, str]) -> RunResult | str:
    with _one_at_a_time:
        events = _Told(*told)
        if work.digest not in _cohorts:
            _cohorts.clear()
            _cohorts[work.digest] = Cohort(work.table, work.base, work.memory_gb)
        try:
            return attempt(run, _cohorts[work.digest], work.folder, events)
        finally:
            events.send()


def _do_scan(
    scan: ScanInput,
    outputs: Outputs,
    models: tuple[str, str],
    digests: tuple[str, str],
    settings: SegmentConfig,
    series: str | None,
    told: tuple[str, str, str],
) -> ScanResult:
    """digests: of the models, since a file of the same name may be another by now."""
    with _one_at_a_time:
        events = _Told(*told)
        events.check_cancel()
        key = (*models, *digests, settings)
        if key not in _segmenters:
            _segmenters.clear()
            _segmenters[key] = Segmenter.load(*models, settings)
        try:
            return segment_scan(_segmenters[key], scan, outputs, events, series=series)
        finally:
            events.send()


def _everywhere(work: Work) -> Work:
    """With paths that mean the same in every folder."""
    cases = tuple(replace(case, image=case.image.absolute(), mask=case.mask.absolute() if case.mask else None) for case in work.table)
    base = replace(work.base, path=work.base.path.absolute()) if work.base else None
    return replace(work, table=replace(work.table, cases=cases), base=base, folder=work.folder.absolute())
