"""What the machine refuses or takes away: one sentence with advice, whole files only, and the same command ends well once the trouble is over."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fault_jobs import Job, make_jobs, save_inputs
from fault_table import Table, table_of_faults
from faults import Running, Trouble, contents, differences, sahlora, small_disk, unfinished, whole

AREA = "Faults of the machine"
faults_table = pytest.fixture(scope="module")(table_of_faults)
JOBS = ("training", "cross-validation", "study", "batch")
#: Folder of a job's results.
RESULTS = {"training": "run", "cross-validation": "run", "study": "study", "batch": "out"}
Jobs = Callable[[str], Job]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def job(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return make_jobs(inputs, tmp_path_factory.mktemp)


def mostly_slow(*quick: str) -> list[object]:
    """All jobs; those that are not named run with `make test-robust` only."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.robust) for name in JOBS]


def refused(run: Running, folder: Path, *words: str) -> tuple[str, str]:
    """The sentence and what is left, once the run has ended with exit code 2, a sentence with these words, and whole files only."""
    assert run.wait() == 2, run.said
    sentence = run.sentence
    assert all(word in sentence for word in words), sentence
    return sentence.replace(str(folder), "…"), told(folder)


def told(folder: Path) -> str:
    """What lies there, in words; asserts that it is whole."""
    left = sorted({Path(name).name for name in whole(folder)})
    assert unfinished(folder) == []
    return ", ".join(left) or "nothing"


@pytest.mark.parametrize("name", mostly_slow("batch"))
def test_a_file_that_cannot_grow_is_told_and_the_run_goes_on_afterwards(name: str, job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "here"
    row = refused(job(name).start(here, Trouble(file_bytes=200)), here, "Cannot write", "free some space")
    job(name).finish(here)
    faults_table(f"{name}: no file may grow beyond 200 bytes (RLIMIT_FSIZE)", *row)


@pytest.mark.robust
@pytest.mark.parametrize("name", JOBS)
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_space(name: str, job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    whole_size = sum(len(str(value)) for value in job(name).reference.values())  # of the order of the results
    refusals = 0
    for share in (0.02, 0.2, 0.5):
        here = tmp_path / f"disk-{share}"
        with disk(here) as change:
            change(f"size={4096 * max(4, int(whole_size * share / 4096))}")
            run = job(name).start(here)
            if run.wait() != 0:
                row = refused(run, here, "No space left", "free some space")
                refusals += 1
            change("size=100m")
            job(name).finish(here)
    assert refusals
    faults_table(f"{name}: the disk is full ({refusals} sizes of disk)", *row)


@pytest.mark.robust
@pytest.mark.parametrize("name", JOBS)
def test_a_folder_that_may_not_be_written_is_told(name: str, job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "disk"
    with disk(here) as change:
        change("ro")
        row = refused(job(name).start(here), here, "hoose another folder")
        change("rw")
        job(name).finish(here)
    faults_table(f"{name}: the folder may not be written (mounted read-only)", *row)


@pytest.mark.robust
@pytest.mark.parametrize("name", ["training", "cross-validation"])
def test_a_model_folder_that_may_not_be_written_costs_no_training(name: str, job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "here"
    with disk(here / "models") as change:
        change("ro")
        row = refused(job(name).start(here), here, "Cannot write")
        change("rw")
        job(name).finish(here)
    faults_table(f"{name}: the model's folder may not be written (mounted read-only)", *row)


def disk(place: Path) -> object:
    """`small_disk`, or a skip that says why."""
    try:
        context = small_disk(place)
        context.__enter__()
    except PermissionError as error:
        pytest.skip(f"{error}; it needs root on Linux")
    context.__exit__(None, None, None)
    return small_disk(place)


@pytest.mark.robust
@pytest.mark.parametrize("moment", [2, 5, 9])
@pytest.mark.parametrize("name", JOBS)
def test_a_results_folder_removed_during_the_run_is_made_anew_or_told(name: str, moment: int, job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "here"
    run = job(name).start(here, Trouble(remove=(moment, RESULTS[name])))
    code = run.wait()
    said = "nothing: the run goes on in a new folder" if code == 0 else run.sentence.replace(str(here), "…")
    left = told(here)
    assert code in (0, 2)
    job(name).finish(here)
    faults_table(f"{name}: the folder of its results is removed as it writes file {moment}", said, left)


@pytest.mark.robust
@pytest.mark.parametrize("name", ["cross-validation", "study", "batch"])
def test_scans_removed_during_the_run_are_told(name: str, job: Jobs, inputs: Path, tmp_path: Path, faults_table: Table) -> None:
    here, scans = tmp_path / "here", tmp_path / "cases"
    shutil.copytree(inputs / "cases", scans)
    here.mkdir()
    arguments = [text.replace(str(inputs / "cases"), str(scans)) for text in job(name).arguments]
    run = sahlora(arguments, here, Trouble(remove=(2, str(scans / "a03"))))
    code = run.wait()
    assert "Traceback" not in run.said and "This is a bug" not in run.said and code in (0, 1, 2)
    lines = [line for line in run.said.splitlines() if "a03" in line and ("error" in line or "failed" in line or "does not exist" in line)]
    said = (lines[-1] if lines else "nothing: it had been read before").replace(str(tmp_path), "…")
    faults_table(f"{name}: the folder of a scan is removed during the run", " ".join(said.split()), told(here))
    shutil.copytree(inputs / "cases" / "a03", scans / "a03")
    assert sahlora(arguments, here).wait() == 0
    assert differences(contents(here), job(name).reference) == []


@pytest.mark.parametrize("name", mostly_slow())
def test_a_clock_that_goes_back_changes_nothing(name: str, job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "here"
    killed = job(name).start(here, Trouble(rename=4, backwards=True))
    assert killed.wait() == -9
    later = time.time() + 10 * 365 * 86400
    for path in here.rglob("*"):
        os.utime(path, (later, later))
    run = job(name).start(here, Trouble(backwards=True))
    assert run.wait() == 0, run.said
    assert differences(contents(here), job(name).reference) == []
    faults_table(f"{name}: the clock goes back an hour at every look, and files lie there from ten years ahead", "nothing", told(here))


def test_memory_that_does_not_suffice_is_told_with_advice(job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "here"
    here.mkdir()
    hungry = [*job("training").arguments, "--crop", "1024", "1024", "--batch", "64"]
    row = refused(sahlora(hungry, here, Trouble(memory=700_000_000)), here, "memory does not suffice", "smaller batch or crop")
    faults_table("training: 64 slices of 1024 × 1024 pixels in 0.7 GB (RLIMIT_AS)", *row)


@pytest.mark.robust
@pytest.mark.parametrize("megabytes", [5, 20, 60])
@pytest.mark.parametrize("name", JOBS)
def test_wherever_the_memory_ends_nothing_is_lost(name: str, megabytes: int, job: Jobs, inputs: Path, tmp_path: Path, faults_table: Table) -> None:
    """A library that does not look whether it was given memory dies of it; all that can be held then is what a kill must not break either."""
    here = tmp_path / "here"
    run = job(name).start(here, Trouble(memory=megabytes * 1_000_000))
    code = run.wait()
    assert "Traceback" not in run.said and "This is a bug" not in run.said and code in (0, 1, 2, -signal.SIGSEGV, -signal.SIGABRT), run.said
    about = [line for line in run.said.splitlines() if "memory" in line]
    if code < 0:
        said, left = f"nothing: a library of PyTorch's died of it (signal {-code})", f"whole files: {', '.join(whole(here)) or 'none'}"
    else:
        assert code == 0 or about, run.said
        said = about[-1].removeprefix("sahlora: error: ") if about else "nothing: it sufficed"
        left = told(here)
    job(name).finish(here)
    faults_table(f"{name}: {megabytes} MB of memory are left (RLIMIT_AS)", " ".join(said.replace(str(inputs), "…").split()), left)


@pytest.mark.parametrize("name", mostly_slow("batch"))
def test_of_two_runs_on_one_folder_the_second_is_refused(name: str, job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "here"
    first = job(name).start(here, Trouble(stop=3))
    first.wait_until_it_stands()
    second = job(name).start(here)
    assert second.wait() == 2
    sentence = second.sentence
    assert "Another SAHLoRA run works in" in sentence
    first.go_on()
    assert first.wait() == 0, first.said
    assert differences(contents(here), job(name).reference) == []
    faults_table(f"{name}: two runs on one folder at once", f"the second: {sentence}".replace(str(here), "…"), told(here))


def test_a_gpu_that_is_lost_costs_the_steps_since_the_last_checkpoint(job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "here"
    row = refused(job("training").start(here, Trouble(gpu_lost=5)), here, "The GPU failed", "device cpu")
    again = job("training").finish(here)
    assert "Going on from the checkpoint at step 4" in again.said
    faults_table("training: CUDA disappears at step 5 (PyTorch's error, raised by the test)", *row)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
@pytest.mark.parametrize("name", ["batch", pytest.param("training", marks=pytest.mark.robust)])
def test_cuda_that_is_not_there_is_told(name: str, job: Jobs, tmp_path: Path, faults_table: Table) -> None:
    here = tmp_path / "here"
    here.mkdir()
    row = refused(sahlora([*job(name).arguments, "--device", "cuda"], here), here, "finds no CUDA GPU", "use device auto or cpu")
    faults_table(f"{name}: CUDA is asked for and not there", *row)
