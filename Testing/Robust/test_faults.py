"""Processes killed at any moment: what is left is whole, and the same command goes on and gives what an uninterrupted run gives."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_jobs import Job, make_jobs, save_inputs, write_adapters
from fault_table import Table, table_of_faults
from faults import Running, Trouble, start, unfinished, whole
from SAHLoRALib.weights import load_network, read_info

AREA = "Kills"
faults_table = pytest.fixture(scope="module")(table_of_faults)
#: Kills of `make test-robust`, each of a process that was at work.
WANTED = {"training": 14, "cross-validation": 12, "study": 8, "batch": 12}
ADAPTERS = 20


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def job(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Job]:
    return make_jobs(inputs, tmp_path_factory.mktemp)


def moments(job: Job, generator: random.Random, most_renames: int) -> Trouble | float:
    """A moment to die at: seconds after the start, or before, after or within the writing of a file."""
    kind = generator.randrange(4)
    if kind == 0:
        return generator.uniform(0.02, 0.95) * job.seconds
    if kind == 1:
        return Trouble(rename=generator.randint(1, most_renames))
    if kind == 2:
        return Trouble(after_rename=generator.randint(1, most_renames))
    return Trouble(file_bytes=generator.randint(50, 3000), mortal=True)


def die(job: Job, folder: Path, moment: Trouble | float) -> str:
    """What killed the process; "" where it was done before."""
    if isinstance(moment, Trouble):
        run = job.start(folder, moment)
        code = run.wait()
        return {-9: "kill -9 at a rename", -25: "killed by the system within a write", 0: ""}[code]
    run = job.start(folder)
    run.process.join(moment)
    return "kill -9 at a random time" if run.kill() else ""


def holds(job: Job, folder: Path) -> None:
    """Whatever is there is whole; the same command ends as an uninterrupted run, and takes away what the killed one had begun to write."""
    whole(folder)
    job.finish(folder)


@pytest.mark.parametrize(
    ("name", "moment"),
    [("training", Trouble(rename=2)), ("training", Trouble(file_bytes=1000, mortal=True)), ("batch", Trouble(after_rename=7))],
    ids=["training at a checkpoint", "training within a write", "batch between two files"],
)
def test_a_killed_run_leaves_whole_files_and_goes_on(name: str, moment: Trouble, job: Callable[[str], Job], tmp_path: Path) -> None:
    assert die(job(name), tmp_path, moment)
    holds(job(name), tmp_path)


def test_what_a_finished_run_had_no_time_to_take_away_goes_with_the_next_call(job: Callable[[str], Job], tmp_path: Path) -> None:
    run = job("cross-validation").start(tmp_path)
    assert run.wait() == 0
    [fold, *_] = sorted(p.parent for p in tmp_path.rglob("run.json"))
    case = next((fold / "predictions").glob("*.nrrd")).stem
    for left in (fold / "predictions" / f"{case}.json", fold / "checkpoint.safetensors", tmp_path / "run" / ".0123abcd.report.md"):
        left.write_text("{}")
    job("cross-validation").finish(tmp_path)
    assert not (fold / "checkpoint.safetensors").exists() and unfinished(tmp_path) == []


@pytest.mark.robust
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", WANTED)
def test_runs_killed_at_random_moments_end_as_uninterrupted_ones(name: str, job: Callable[[str], Job], tmp_path: Path, faults_table: Table) -> None:
    generator = random.Random(f"kills of {name}")
    most, done, halves, tries = 40, Counter[str](), 0, 0
    said = Counter[str]()
    while done.total() < WANTED[name]:
        tries += 1
        assert tries < 4 * WANTED[name], f"only {done} of {tries} kills hit"
        moment = moments(job(name), generator, most)
        folder = tmp_path / f"{tries:03}"
        how = die(job(name), folder, moment)
        if not how and isinstance(moment, Trouble):
            most = max(2, (moment.rename or moment.after_rename or most + 1) - 1)
        if how:
            done[how] += 1
            halves += len(unfinished(folder))
        whole(folder)
        again = job(name).finish(folder)
        said["goes on from a checkpoint" if "Going on from the checkpoint" in again.said else "does what was missing"] += bool(how)
    ways = ", ".join(f"{count} × {how}" for how, count in done.items())
    words = ", ".join(f"{count} × {what}" for what, count in said.items() if count)
    faults_table(
        f"{name}: {done.total()} kills ({ways})",
        f"nothing; the same command {words}, and ends with the results of an uninterrupted run to the bit",
        f"whole files only; {halves} files under temporary names in all",
    )


@pytest.mark.parametrize("kills", [1, pytest.param(ADAPTERS, marks=pytest.mark.robust)])
def test_a_kill_while_an_adapter_is_written_leaves_the_old_one_or_the_new(kills: int, inputs: Path, tmp_path: Path, faults_table: Table) -> None:
    generator = random.Random(kills)
    base = read_info(inputs / "tiny.safetensors")
    halves = 0
    for n in range(kills):
        folder = tmp_path / str(n)
        folder.mkdir()
        run: Running = start(write_adapters, (str(base.path), str(folder / "mine.safetensors")), folder)
        while "writing" not in run.said:
            run.process.join(0.01)
        run.process.join(generator.uniform(0.0, 0.15))
        assert run.kill()
        assert load_network(base, read_info(folder / "mine.safetensors"))[1].threshold in (0.25, 0.75)
        halves += len(unfinished(folder))
        assert whole(folder) == ["mine.safetensors"]
    if kills > 1:
        faults_table(
            f"adapter being written over and over: {kills} kills (kill -9 at a random time)",
            "nothing; the adapter opens with its digest, the one before or the new one",
            f"the adapter, whole; {halves} files under temporary names in all",
        )
