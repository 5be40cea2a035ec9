"""What a start costs: `sahlora segment` loads no package that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import SAHLoRALib
from tiny_scans import BLEED, save_models, save_scan

#: Packages of other commands (statistics, studies, DICOM tests, clusters), and parts of large ones that alone cost a quarter of a second and more.
UNNEEDED = (
    "dask", "distributed", "highdicom", "matplotlib", "monai", "nibabel", "nilearn", "pandas", "peft", "pingouin", "pydicom", "scipy.optimize",
    "scipy.stats", "seaborn", "skimage", "sklearn", "statsmodels", "tensorly", "torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "yaml",
)  # fmt: skip
PROGRAM = "import sys; from SAHLoRALib.cli import main; code = main(sys.argv[1:]); print(*sys.modules, sep='\\n'); sys.exit(code)"


def loaded(*arguments: object) -> set[str]:
    """The modules that a process of its own has loaded when its command is done."""
    environment = {**os.environ, "PYTHONPATH": str(Path(SAHLoRALib.__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines())


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
