"""Copies of scans and masks in a case folder: voxels and geometry, nothing of a header that could name a person; written whole or not at all.

A case's copies lie in FOLDER/CASE with a list of their names (`STORED`): only what the list names may ever be deleted or overwritten.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CaseError, OutputError
from .files import write_text

if TYPE_CHECKING:
    import numpy as np

    from .cases import Case
    from .ct import CTVolume

#: In a case's folder: the names of the files that were copied there.
STORED = ".stored.json"
SCAN = "ct.nrrd"


def store_case(case: Case, folder: Path) -> Case:
    """Copy scan and mask into FOLDER/CASE, both or none; returns the case with its new paths.

    Raises ScanError, CaseError (the mask lies on another grid, is cut short, holds several segments; slices unevenly apart), OutputError.
    """
    place = folder / case.case
    if place.exists():
        raise OutputError(f"{place} exists already; give the case another name or remove that folder.")
    ct = case.read_ct()
    if ct.uneven:
        raise CaseError(
            f"The slices of {case.image} lie unevenly apart, which no single file can hold: the volumes would be wrong. Leave the scan where it is "
            "instead of copying it, and use the DICOM folder itself."
        )
    mask = None if case.mask is None else case.read_mask(ct)
    building = folder / f".{uuid.uuid4().hex[:8]}.{case.case[-60:]}"
    names = [SCAN]
    try:
        _write_scan(ct, building / SCAN)
        if mask is not None and case.mask is not None:
            names.append(_mask_name(case.mask))
            _write_mask(mask, ct, building / names[-1])
        remember(building, names)
        try:
            building.rename(place)
        except OSError as error:
            raise OutputError(f"Cannot write {place}: {error.strerror or error}. Choose another folder or free some space.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return replace(case, image=place / SCAN, mask=None if mask is None else place / names[-1], segment=None, series=None)


def store_mask(mask: np.ndarray, ct: CTVolume, source: Path, place: Path) -> Path:
    """Write a mask (slices, rows, columns) into a case's folder beside or over the one that was stored; returns the file. Raises OutputError."""
    stored = stored_files(place)
    target = place / _mask_name(source)
    if target.exists() and target not in stored:  # somebody's own file of that name
        target = place / f"mask-{uuid.uuid4().hex[:6]}{target.name.removeprefix('mask')}"
    _write_mask(mask, ct, target)
    remember(place, {path.name for path in (*stored, target)})
    return target


def stored_files(place: Path) -> set[Path]:
    """The files of a case's folder that were copied there."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return {place / Path(str(name)).name for name in json.loads((place / STORED).read_text(encoding="utf-8"))}
    return set()


def remember(place: Path, names: Iterable[str]) -> None:
    """Write the list of what was copied into a case's folder (OutputError)."""
    write_text(place / STORED, json.dumps(sorted(names)))


def drop(place: Path, files: Iterable[Path] | None = None) -> list[Path]:
    """Delete copies in a case's folder, all of them without `files`, and the folder where nothing else lies in it. Returns what was deleted."""
    stored = stored_files(place)
    gone = stored if files is None else stored & set(files)
    deleted = []
    for path in sorted(gone):
        with contextlib.suppress(OSError):
            path.unlink()
            deleted.append(path)
    left = {path.name for path in stored if path.exists()}
    if left:
        remember(place, left)
    else:
        with contextlib.suppress(OSError):
            (place / STORED).unlink(missing_ok=True)
            place.rmdir()
    return deleted


def _mask_name(source: Path) -> str:
    """A Slicer segmentation stays one."""
    return "mask.seg.nrrd" if source.name.lower().endswith(".seg.nrrd") else "mask.nrrd"


def _write_scan(ct: CTVolume, path: Path) -> None:
    """HU on the scan's own grid, as whole numbers where they are whole."""
    import numpy as np

    from .images import mask_image, write_image

    whole = np.rint(ct.hu)
    fits = np.array_equal(whole, ct.hu) and whole.min() >= -32768 and whole.max() <= 32767
    write_image(mask_image(whole.astype(np.int16) if fits else ct.hu, ct), path)


def _write_mask(mask: np.ndarray, ct: CTVolume, path: Path) -> None:
    from .images import write_segmentation

    write_segmentation(mask, ct, path)
