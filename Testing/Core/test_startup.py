"""What a start and an end cost: `sahlora segment` loads no package that it does not need, and no objects are searched for cycles on the way."""

from __future__ import annotations

import gc
import locale
import mmap
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import SAHLoRALib
from SAHLoRALib.cli import main, program
from SAHLoRALib.segmenter import Segmenter
from SAHLoRALib.startup import uncollected, utf8_paths
from tiny_scans import BLEED, save_models, save_scan

#: Packages of other commands (statistics, studies, DICOM tests, clusters), and parts of large ones that alone cost a quarter of a second and more.
UNNEEDED = (
    "dask", "distributed", "highdicom", "matplotlib", "monai", "nibabel", "nilearn", "pandas", "peft", "pingouin", "pydicom", "scipy.optimize",
    "scipy.stats", "seaborn", "skimage", "sklearn", "statsmodels", "tensorly", "torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "yaml",
)  # fmt: skip
PROGRAM = "import sys; from SAHLoRALib.cli import main; code = main(sys.argv[1:]); print(*sys.modules, sep='\\n'); sys.exit(code)"


def loaded(*arguments: object) -> set[str]:
    """The modules that a process of its own has loaded when its command is done."""
    return set(told(PROGRAM, *arguments))


def told(code: str, *arguments: object) -> list[str]:
    """The lines that a process of its own prints, which ends well."""
    environment = {**os.environ, "PYTHONPATH": str(Path(SAHLoRALib.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_segmenting_a_file_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    save_models(tmp_path / "models")
    scan = save_scan(tmp_path / "scan.nrrd", BLEED)
    model = tmp_path / "models" / "tbi-base.safetensors"
    modules = loaded("segment", scan, "--output", tmp_path / "out", "--model", model, "--device", "cpu")
    assert "torch" in modules  # else the list would be empty for another reason
    assert sorted(modules.intersection(UNNEEDED)) == []


def test_help_and_version_load_no_large_package() -> None:
    for arguments in (("--help",), ("--version",), ("segment", "--help")):
        assert sorted(loaded(*arguments).intersection({*UNNEEDED, "scipy", "SimpleITK", "torch"})) == [], arguments


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_within_and_all_is_as_before_afterwards(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError), uncollected():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_process_ends_without_searching_its_objects_and_loses_nothing_that_was_printed() -> None:
    """What is registered first runs last: after the objects were set aside."""
    code = (
        "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 1000, flush=True));"
        "from SAHLoRALib.cli import program; sys.exit(program())"
    )
    assert told(code, "--version") == [f"sahlora {SAHLoRALib.__version__}", "True"]


def test_segmenting_loads_its_network_uncollected(tmp_path: Path) -> None:
    save_models(tmp_path / "models")
    scan = save_scan(tmp_path / "scan.nrrd", BLEED)
    seen = []

    def load(*arguments: object) -> Segmenter:
        seen.append(gc.isenabled())
        return Segmenter.load(*arguments)  # type: ignore[arg-type]

    given = ["segment", str(scan), "--output", str(tmp_path / "out"), "--model", str(tmp_path / "models" / "tbi-base.safetensors"), "--device", "cpu"]
    gc.enable()
    assert main(given, load=load) == 0
    assert seen == [False] and gc.isenabled()


def large_pages_on_request() -> bool:
    """Whether the system gives large pages to whom asks for them, and to no one else."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.is_file() and "[madvise]" in setting.read_text()


@pytest.mark.skipif(not large_pages_on_request(), reason="the system gives large pages to all or to none")
@pytest.mark.parametrize("asked", [True, False])
def test_a_map_comes_in_large_pages(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page that the system enters is a fault."""
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    code = f"""
import resource
from SAHLoRALib.startup import large_pages
{"large_pages()" if asked else ""}
import torch
torch.ones(1)
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
torch.ones(50_000_000)
print(faults() - before)
"""
    pages = 200_000_000 // mmap.PAGESIZE
    faults = int(told(code)[0])
    assert (faults < pages / 20) if asked else (faults > pages / 2)


def test_programs_ask_for_large_pages_and_a_mere_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicer, which may call `main` itself, has a memory of its own to see to."""
    monkeypatch.setattr("SAHLoRALib.startup.quick_end", lambda: None)
    monkeypatch.setattr(sys, "argv", ["sahlora", "--version"])
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "to be taken away again")
    del os.environ["THP_MEM_ALLOC_ENABLE"]
    assert main(["--version"]) == 0 and "THP_MEM_ALLOC_ENABLE" not in os.environ
    assert program() == 0 and os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert program() == 0 and os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


@pytest.mark.parametrize("script", ["SAHLoRASegment/Scripts/segment.py", "SAHLoRATrain/Scripts/train.py"])
def test_scripts_for_slicer_without_a_window_ask_for_large_pages(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "to be taken away again")
    del os.environ["THP_MEM_ALLOC_ENABLE"]
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert runpy.run_path(str(Path(SAHLoRALib.__file__).parents[2] / script))["run"]() == 0
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"


@pytest.mark.parametrize("known", [True, False])
def test_on_windows_paths_are_utf8_where_the_system_knows_it(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def setlocale(category: int, name: str) -> None:
        asked.append((category, name))
        if not known:
            raise locale.Error("unsupported locale setting")

    monkeypatch.setattr(locale, "setlocale", setlocale)
    utf8_paths()
    assert sys.platform == "win32" or not asked, "elsewhere they are as the user's locale has it"
    monkeypatch.setattr(sys, "platform", "win32")
    utf8_paths()
    assert asked[-1] == (locale.LC_CTYPE, ".UTF-8")
