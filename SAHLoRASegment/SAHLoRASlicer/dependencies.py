"""What the worker needs and Slicer does not bring: looked for and installed at the moment of use, never before.

PyTorch comes through the PyTorch extension only; the rest from requirements.txt, by `slicer.packaging` (5.12 and later) or `slicer.util.pip_install`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

#: MPS averages pixels on the way to the network from here on.
TORCH = ">=2.7"
REQUESTER = "SAHLoRA"


class Missing(Exception):
    """Something is missing and was not installed; the text says what, and what to do."""


def requirements(path: Path) -> list[str]:
    """The lines of a requirements.txt without comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def missing_packages(path: Path) -> list[str]:
    """Requirements that are not met. A version too old counts as missing; versions are compared where the packaging package is there."""
    return [requirement for requirement in requirements(path) if not _met(requirement)]


@functools.cache
def missing_in_words(path: Path) -> str:
    """What is not installed yet, for a label; empty where nothing is missing.

    Looking takes milliseconds, which a panel has not at each change of the scene: it is kept until `ensure` has run or a panel is entered.
    """
    names = [re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in missing_packages(path)]
    if importlib.util.find_spec("torch") is None:
        names.insert(0, "PyTorch")
    return ", ".join(names)


def ensure(path: Path, log: Callable[[str], None]) -> None:
    """Have everything there, asking the user first. Raises Missing where something is not, however that came."""
    try:
        _ensure(path, log)
    finally:
        missing_in_words.cache_clear()


def _ensure(path: Path, log: Callable[[str], None]) -> None:
    _ensure_torch(log)
    missing = missing_packages(path)
    if not missing:
        return
    names = ", ".join(missing)
    log(f"Installing {names}")
    import slicer

    try:
        try:
            import slicer.packaging as packaging
        except ImportError:
            _install_before_5_12(missing)
        else:
            packaging.pip_ensure(packaging.load_requirements(path), requester=REQUESTER)
    except Missing:
        raise
    except Exception as error:  # declined, no network, a broken package: the user reads one sentence
        raise Missing(f"The Python packages {names} were not installed ({_short(error)}). The next start asks again.") from error
    if still := missing_packages(path):
        why = " (Slicer installs nothing while it runs in testing mode)" if slicer.app.testingEnabled() else ""
        raise Missing(f"The Python packages {', '.join(still)} are still missing{why}; restart Slicer and try again.")


def _ensure_torch(log: Callable[[str], None]) -> None:
    if importlib.util.find_spec("torch") is not None:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version("torch")
            if not _met(f"torch{TORCH}"):
                raise Missing(
                    f"PyTorch {version} is too old: {TORCH[2:]} or later is needed. Install it anew with the PyTorch module, and restart Slicer."
                )
        return
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise Missing(
            f"There is no PyTorch {TORCH[2:]} for Intel's Macs, and Slicer for the Mac is made for those, also where it runs on Apple's processors. "
            "Use the command line with a Python for Apple's processors, or Slicer on Windows or Linux."
        )
    try:
        import PyTorchUtils
    except ImportError:
        raise Missing("The PyTorch extension is missing: install it in the Extensions Manager, restart Slicer, and start again.") from None
    log("Installing PyTorch")
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=TORCH)
    except Exception as error:
        raise Missing(f"PyTorch could not be installed ({_short(error)}). Look at the PyTorch module, which installs it too.") from error
    if torch is None:
        raise Missing("PyTorch was not installed, and nothing can be segmented without it. The next start asks again; everything else can be used.")


def _install_before_5_12(missing: list[str]) -> None:
    import slicer

    if slicer.app.testingEnabled():
        return
    listed = "\n".join(missing)
    if not slicer.util.confirmOkCancelDisplay(f"{REQUESTER} needs these Python packages in Slicer:\n\n{listed}\n\nInstall them now?", REQUESTER):
        raise Missing(f"The Python packages {', '.join(missing)} were not installed. The next start asks again; everything else can be used.")
    slicer.util.pip_install(missing)


def _met(requirement: str) -> bool:
    name = re.split(r"[<>=!~\[; ]", requirement)[0]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
