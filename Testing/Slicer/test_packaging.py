"""The CMake lists hold every file, and what they list works from an empty folder. Needs no Slicer."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = [folder for folder in (ROOT / "SAHLoRASegment", ROOT / "SAHLoRATrain") if (folder / "CMakeLists.txt").is_file()]


def listed(module: Path) -> list[str]:
    """The files that a module's CMakeLists.txt names."""
    text = (module / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", module.name)
    found = []
    for name in ("MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES"):
        block = re.search(rf"set\({name}\s([^)]*)\)", text)
        assert block, f"{module.name}/CMakeLists.txt sets no {name}"
        found += block.group(1).split()
    return found


def present(module: Path) -> list[str]:
    """What git would take of the folder, less the CMake lists themselves."""
    found = [path for path in module.rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"]
    return [path.relative_to(module).as_posix() for path in found if path.name != "CMakeLists.txt" and not path.name.startswith(".")]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_every_file_of_a_module_is_listed_for_packaging(module: Path) -> None:
    files, there = set(listed(module)), set(present(module))
    assert not there - files, f"add to {module.name}/CMakeLists.txt: {sorted(there - files)}"
    assert not files - there, f"remove from {module.name}/CMakeLists.txt: {sorted(files - there)}"


def test_packages_import_from_a_folder_that_holds_the_listed_files_only(tmp_path: Path) -> None:
    module = ROOT / "SAHLoRASegment"
    for name in listed(module):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module / name, tmp_path / name)
    names = [name.removesuffix(".py").replace("/", ".") for name in listed(module) if name.endswith(".py")]
    core = [name.removesuffix(".__init__") for name in names if name.startswith("SAHLoRALib") and not name.endswith("__main__")]
    light = [
        f"SAHLoRASlicer.{name}"
        for name in ("worker", "models", "dependencies", "volumes", "segmentations", "tables", "cases", "samples", "job", "runs")
    ]
    code = f"""
import importlib, sys
sys.path.insert(0, {str(tmp_path)!r})
for name in {light!r}:
    importlib.import_module(name)
heavy = [name for name in ("torch", "SimpleITK", "scipy", "pandas", "matplotlib", "monai") if name in sys.modules]
assert not heavy, f"imported with SAHLoRASlicer: {{heavy}}"
for name in {core!r}:
    importlib.import_module(name)
from SAHLoRALib.cli import main
raise SystemExit(main(["--help"]))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "segment" in done.stdout


def test_extension_metadata_stands_on_single_lines_and_depends_on_pytorch() -> None:
    lines = (ROOT / "CMakeLists.txt").read_text().splitlines()
    given = {match.group(1): match.group(2) for line in lines if (match := re.fullmatch(r'set\(EXTENSION_(\w+) "(.+)"\)', line))}
    assert set(given) == {"HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"}
    assert given["DEPENDS"] == "PyTorch"


def test_catalogue_entry_holds_the_fields_of_its_schema_and_no_others() -> None:
    entry = json.loads((ROOT / "Resources" / "SAHLoRA.json").read_text())
    assert {"$schema", "category", "scm_url"} <= set(entry) <= {"$schema", "category", "scm_url", "scm_revision", "build_dependencies", "tier"}


def test_requirements_leave_out_what_slicer_and_pytorch_bring() -> None:
    sys.path.insert(0, str(ROOT / "SAHLoRASegment"))
    from SAHLoRASlicer.dependencies import requirements

    lines = requirements(ROOT / "SAHLoRASegment" / "Resources" / "requirements.txt")
    names = {re.split(r"[<>=]", line)[0].lower() for line in lines}
    assert not names & {"torch", "numpy", "simpleitk"}
    assert all(">=" in line and "==" not in line for line in lines)
    import tomllib

    core = {re.split(r"[<>=]", d)[0].lower() for d in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]}
    assert names == core - {"torch", "numpy", "simpleitk"}


def test_icons_are_128_pixels_square() -> None:
    for path in (ROOT / "Resources/Icons/SAHLoRA.png", ROOT / "SAHLoRASegment/Resources/Icons/SAHLoRASegment.png"):
        head = path.read_bytes()[:24]
        assert (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == (128, 128), path
