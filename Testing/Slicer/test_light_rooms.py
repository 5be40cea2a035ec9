"""Model headers, dependencies and the worker's watch: plain Python, tested without Slicer."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from SAHLoRASlicer import dependencies, models, worker


def test_headers_read_without_torch_say_what_the_core_reads(model_folder: Path) -> None:
    from SAHLoRALib.weights import read_info

    card, info = models.read_card(model_folder / "tiny.safetensors"), read_info(model_folder / "tiny.safetensors")
    assert not card.problem
    for name in ("name", "kind", "digest", "threshold", "description", "licence", "date"):
        assert getattr(card, name) == getattr(info, name)


def test_user_folder_is_the_cores_on_every_system() -> None:
    from SAHLoRALib import catalogue

    for platform in ("linux", "darwin", "win32"):
        for environment in ({}, {"SAHLORA_MODELS": "/somewhere"}, {"LOCALAPPDATA": "/data", "XDG_DATA_HOME": "/share"}):
            assert models.user_folder(environment, platform) == catalogue.user_folder(environment, platform)


@pytest.mark.parametrize("content", [b"", b"no weights", (10**12).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}"])
def test_what_is_no_weight_file_becomes_a_problem_and_is_not_imported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    found, problems = models.list_models([tmp_path])
    assert found == [] and "bad.safetensors" in problems[0]
    with pytest.raises(ValueError, match="not a weight file"):
        models.import_model(path, tmp_path / "user")


def test_import_copies_once_and_refuses_a_name_that_another_model_has(model_folder: Path, tmp_path: Path) -> None:
    card = models.import_model(model_folder / "tiny.safetensors", tmp_path)
    assert card.path.parent == tmp_path and models.import_model(model_folder / "tiny.safetensors", tmp_path).digest == card.digest
    other = tmp_path / "elsewhere" / "tiny.safetensors"
    other.parent.mkdir()
    other.write_bytes(card.path.read_bytes().replace(card.digest.encode(), b"0" * 64))
    with pytest.raises(ValueError, match="Another model"):
        models.import_model(other, tmp_path)


def test_a_name_of_a_bundled_model_is_not_imported_since_it_would_never_be_used(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "tbi-base.safetensors"
    path.write_bytes((model_folder / "tiny.safetensors").read_bytes())
    with pytest.raises(ValueError, match="comes with SAHLoRA"):
        models.import_model(path, tmp_path / "user")
    assert not (tmp_path / "user").exists()


def test_the_prediction_of_a_study_is_of_the_run_whose_figures_are_shown(tmp_path: Path) -> None:
    from SAHLoRASlicer.train_results import read_results

    old, new = "cp-lora-r4-fold1-0123456789", "cp-lora-r8-fold1-abcdef0123"
    for run in (old, new):
        (tmp_path / "runs" / run / "predictions").mkdir(parents=True)
        (tmp_path / "runs" / run / "predictions" / "c1.nrrd").touch()
    (tmp_path / "methods.csv").write_text('label,method,rank,dice\n"cp-lora, rank 8",cp-lora,8,0.7\n')
    (tmp_path / "results.csv").write_text('label,patient,dice\n"cp-lora, rank 8",p1,0.7\n')
    (tmp_path / "made_of.json").write_text(json.dumps({"runs": {new: "abcdef0123"}, "labels": {new: "cp-lora, rank 8"}}))
    results = read_results(tmp_path)
    assert results is not None and results.prediction("c1") == tmp_path / "runs" / new / "predictions" / "c1.nrrd"


def test_deleting_a_training_leaves_a_users_own_files(tmp_path: Path) -> None:
    from SAHLoRASlicer.train_plan import TrainingPlan
    from SAHLoRASlicer.train_run import delete

    plan = TrainingPlan(name="never-trained", output=str(tmp_path / "project"))
    plan.save()
    run = tmp_path / "project" / "runs" / "cp-lora-r4-fold1-0123456789" / "predictions"
    run.mkdir(parents=True)
    ours = [run / "c1.nrrd", tmp_path / "project" / "predictions" / "c1.nrrd", tmp_path / "project" / "figures" / "training.png"]
    own = [tmp_path / "project" / name for name in ("figures/fig1_paper.tif", "predictions/nnunet.nii.gz", "runs/notes.txt")]
    for path in (*ours, *own):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert delete(plan) == [plan.output]
    assert all(path.exists() for path in own) and not any(path.exists() for path in ours) and not run.exists()
    for path in own:
        path.unlink()
    plan.save()
    delete(plan)
    assert not (tmp_path / "project").exists()


def _slicer(monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    app = types.SimpleNamespace(testingEnabled=lambda: False)
    monkeypatch.setitem(sys.modules, "slicer", types.SimpleNamespace(app=app, **more))


def _without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else real(name, *a))


def test_without_the_pytorch_extension_the_user_reads_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _without_torch(monkeypatch)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(dependencies.Missing, match="PyTorch extension is missing"):
        dependencies.ensure(tmp_path / "requirements.txt", print)


def test_declining_pytorch_is_said_and_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    class Logic:
        def installTorch(self, askConfirmation: bool, torchVersionRequirement: str) -> None:
            asked.append((askConfirmation, torchVersionRequirement))

    _without_torch(monkeypatch)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    for _ in range(2):
        with pytest.raises(dependencies.Missing, match="was not installed"):
            dependencies.ensure(tmp_path / "requirements.txt", print)
    assert asked == [(True, ">=2.7")] * 2


def test_declining_packages_is_said_with_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def decline(requirements: Any, requester: str) -> None:
        raise RuntimeError("User declined package installation")

    path = tmp_path / "requirements.txt"
    path.write_text("no-such-package>=1.0  # why\npip\n")
    packaging = types.SimpleNamespace(pip_ensure=decline, load_requirements=lambda given: given)
    _slicer(monkeypatch, packaging=packaging)
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    assert dependencies.missing_in_words(path) == "no-such-package"
    with pytest.raises(dependencies.Missing, match=r"no-such-package>=1.0 were not installed \(User declined"):
        dependencies.ensure(path, print)


def test_what_is_missing_is_looked_for_once_until_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked, there = [], []

    def missing(path: Path) -> list[str]:
        looked.append(path)
        return [] if there else ["no-such-package>=1.0"]

    monkeypatch.setattr(dependencies, "missing_packages", missing)
    path = tmp_path / "requirements.txt"
    assert [dependencies.missing_in_words(path) for _ in range(3)] == ["no-such-package"] * 3 and len(looked) == 1
    packaging = types.SimpleNamespace(pip_ensure=lambda given, requester: there.append(given), load_requirements=lambda given: given)
    _slicer(monkeypatch, packaging=packaging)
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    dependencies.ensure(path, print)
    assert there and dependencies.missing_in_words(path) == ""


def test_slicer_5_10_asks_and_installs_with_its_own_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed: list[Any] = []
    path = tmp_path / "requirements.txt"
    path.write_text("no-such-package>=1.0\n")
    answers = iter([False, True])
    util = types.SimpleNamespace(confirmOkCancelDisplay=lambda *a: next(answers), pip_install=installed.append)
    _slicer(monkeypatch, util=util)
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    with pytest.raises(dependencies.Missing, match="were not installed"):
        dependencies.ensure(path, print)
    assert installed == []
    with pytest.raises(dependencies.Missing, match="still missing"):
        dependencies.ensure(path, print)
    assert installed == [["no-such-package>=1.0"]]


@pytest.mark.parametrize("gone", ["owner", "folder", "cancelled"])
def test_worker_ends_itself_when_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gone: str) -> None:
    monkeypatch.setenv(worker.FOLDER, str(tmp_path))
    monkeypatch.setenv(worker.CANCEL, str(tmp_path / "cancel"))
    monkeypatch.setenv(worker.OWNER, "1")
    now = [100.0]
    monkeypatch.setattr(worker, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    must_end = worker.reasons_to_end()
    assert not must_end()
    if gone == "owner":
        monkeypatch.setattr(worker, "alive", lambda pid: False)
    elif gone == "folder":
        tmp_path.rmdir()
    else:
        (tmp_path / "cancel").touch()
        assert not must_end(), "a polite stop gets its time"
        now[0] += 1.5
    assert must_end()
    assert tmp_path.exists() == (gone == "cancelled")


def test_worker_that_stays_watches_the_job_it_has_and_none_between_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(worker.OWNER, raising=False)
    watched = worker.Watched()
    must_end = worker.reasons_to_end(watched)
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        with watched.around(folder / "job.json"):
            assert not must_end()
            (folder / "cancel").touch()
            assert not must_end() and watched.errand.cancelled_at is not None
        shutil.rmtree(folder)  # as Slicer does after the answer
        assert not must_end()
    with watched.around(folder / "job.json"):
        assert must_end(), "a job without its folder is nobody's any more"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_worker_that_stays_ends_with_slicer_and_takes_the_volumes_away(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "scan_001.nrrd").write_bytes(b"a patient's head")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        told = {worker.FOLDER: str(folder), worker.CANCEL: str(folder / "cancel"), worker.OWNER: str(owner.pid)}
        environment = {**os.environ, "PYTHONPATH": str(Path(worker.__file__).parents[1]), **told}
        command = [sys.executable, "-u", "-m", "SAHLoRASlicer.worker", worker.STAY, "--job", str(folder / "job.json")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as stays:
            assert stays.stdout is not None and b"started" in stays.stdout.readline()
            owner.kill()
            owner.wait()
            stays.stdout.read()  # until it ends: its input is still open, and nobody else tells it to
            assert stays.wait() == -9
    assert not folder.exists()


@pytest.mark.parametrize("name", ["job.json", "j?b.json"])
def test_worker_finds_its_job_where_the_path_came_damaged(name: str, tmp_path: Path) -> None:
    """As from a launcher that passes ä on in another code page."""
    folder = tmp_path / "für-José"
    folder.mkdir()
    (folder / worker.JOB_FILE).write_text('{"command": "models", "events": "json"}', encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(worker.__file__).parents[1]), worker.FOLDER: str(folder)}
    command = [sys.executable, "-u", "-m", "SAHLoRASlicer.worker", "--job", str(folder / name)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_old_pytorch_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.metadata

    from SAHLoRASlicer import dependencies

    real = importlib.metadata.version
    (tmp_path / "requirements.txt").write_text("")
    dependencies.ensure(tmp_path / "requirements.txt", print)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.5.1" if name == "torch" else real(name))
    with pytest.raises(dependencies.Missing, match=r"PyTorch 2\.5\.1 is too old"):
        dependencies.ensure(tmp_path / "requirements.txt", print)
