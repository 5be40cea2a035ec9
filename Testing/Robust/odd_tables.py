"""Case tables as people make them and masks as they come: from Excel, with wrong paths, several labels, other grids."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tiny_cohort import save_cohort

Change = Callable[[Path], Path]


@dataclass(frozen=True)
class OddTable:
    """name: for people. change: takes cases.csv of three good cases a00, a01, a02 and returns what the user names.

    says: what the check must say (a regular expression). good: whether the cases can be used all the same.
    """

    name: str
    change: Change
    says: str
    good: bool = False


def three_cases(folder: Path) -> Path:
    return save_cohort(folder, (3, 4, 5))


def _text(change: Callable[[str], str], encoding: str = "utf-8", name: str = "cases.csv") -> Change:
    def write(table: Path) -> Path:
        text = change(table.read_text(encoding="utf-8"))
        table.unlink()
        (table.parent / name).write_bytes(text.encode(encoding))
        return table.parent / name

    return write


def _mask(change: Callable[[sitk.Image], sitk.Image]) -> Change:
    """Another mask for a01."""

    def write(table: Path) -> Path:
        path = table.parent / "a01" / "mask.nrrd"
        sitk.WriteImage(change(sitk.ReadImage(str(path))), str(path))
        return table

    return write


def _voxels(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def other(image: sitk.Image) -> sitk.Image:
        new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
        new.CopyInformation(image)
        return new

    return _mask(other)


def _moved(image: sitk.Image) -> sitk.Image:
    image.SetOrigin((7.0, 0.0, 0.0))
    return image


def _coarser(image: sitk.Image) -> sitk.Image:
    size = [n // 2 for n in image.GetSize()]
    spacing = [2 * n for n in image.GetSpacing()]
    return sitk.Resample(image, size, sitk.Transform(), sitk.sitkNearestNeighbor, image.GetOrigin(), spacing, image.GetDirection())


def _two_labels(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[:2] = np.where(array[:2] == 0, 2, array[:2])
    return array


def _renamed(name: str) -> Change:
    """The folder of a01 under another name, which the table says."""

    def write(table: Path) -> Path:
        (table.parent / "a01").rename(table.parent / name)
        table.write_text(table.read_text(encoding="utf-8").replace("a01/", f"{name}/"), encoding="utf-8")
        return table

    return write


def _absolute(table: Path) -> Path:
    text = table.read_text(encoding="utf-8")
    for name in ("a00", "a01", "a02"):
        text = text.replace(f",{name}/", f",{table.parent / name}/")
    table.write_text(text, encoding="utf-8")
    return table


def _without_table(table: Path) -> Path:
    table.unlink()
    return table.parent


def _empty_folder(table: Path) -> Path:
    (table.parent / "empty").mkdir()
    return table.parent / "empty"


def _swapped(table: Path) -> Path:
    here = table.parent / "a01"
    shutil.move(here / "ct.nrrd", here / "x.nrrd")
    shutil.move(here / "mask.nrrd", here / "ct.nrrd")
    shutil.move(here / "x.nrrd", here / "mask.nrrd")
    return table


def _bit(table: Path) -> Path:
    path = table.parent / "a01" / "mask.nrrd"
    content = bytearray(path.read_bytes())
    content[-12] ^= 4
    path.write_bytes(content)
    return table


def _one_slice_up(image: sitk.Image) -> sitk.Image:
    image.SetOrigin(image.TransformIndexToPhysicalPoint((0, 0, 1)))
    return image


def _cut(table: Path) -> Path:
    path = table.parent / "a01" / "mask.nrrd"
    path.write_bytes(path.read_bytes()[:-40])
    return table


def _no_ct(table: Path) -> Path:
    (table.parent / "a01" / "ct.nrrd").unlink()
    return table


def _semicolons(text: str) -> str:
    return text.replace(",", ";")


TABLES = (
    OddTable("a plain table", lambda table: table, "3 cases", good=True),
    OddTable("a table of Excel with a byte order mark", _text(lambda text: text, "utf-8-sig"), "3 cases", good=True),
    OddTable("semicolons, as Excel writes them in Germany", _text(_semicolons), "3 cases", good=True),
    OddTable("tabs", _text(lambda text: text.replace(",", "\t")), "3 cases", good=True),
    OddTable("a table in UTF-16", _text(lambda text: text, "utf-16"), "3 cases", good=True),
    OddTable("an umlaut in Latin-1", _text(lambda text: text.replace("here", "Köln"), "latin-1"), "3 cases", good=True),
    OddTable("empty lines and spaces around the values", _text(lambda text: text.replace(",", " , ").replace("\n", "\n\n")), "3 cases", good=True),
    OddTable("column names in capitals", _text(lambda text: text.replace("case,image,mask", "Case,Image,Mask")), "3 cases", good=True),
    OddTable("no column image", _text(lambda text: text.replace("image", "bild")), "has no column image"),
    OddTable("a header only", _text(lambda text: text.splitlines()[0] + "\n"), "has no cases"),
    OddTable("an empty file", _text(lambda text: ""), "has no column image"),
    OddTable("a picture with the name of a table", _text(lambda text: "\x89PNG\r\n\x00\x00\x1a"), "is not a text file"),
    OddTable("a table that is not there", lambda table: table.with_name("cases2.csv"), "cannot be read: No such file"),
    OddTable("the same case twice", _text(lambda text: text + text.splitlines()[1] + "\n"), "two cases a00"),
    OddTable("one scan as two patients", _text(lambda text: text + "a09,a01/ct.nrrd,a01/mask.nrrd,p09,here,yes\n"), "same scan as case a01"),
    OddTable("absolute paths", _absolute, "3 cases", good=True),
    OddTable("a comma in a path without quotes", _renamed("Fälle der Klinik, alt"), "put quotes around text"),
    OddTable("spaces and umlauts in a path", _renamed("Fälle der Klinik (alt)"), "3 cases", good=True),
    OddTable("a very long name", _renamed("n" * 200), "3 cases", good=True),
    OddTable("a scan that is missing", _no_ct, "Correct the path of the image"),
    OddTable(
        "a path that leads out of the folder to nothing",
        _text(lambda text: text.replace("a01/mask", "../../a01/mask")),
        "Correct the path of the mask",
    ),
    OddTable("scan and mask swapped", _swapped, "not those of a head CT"),
    OddTable("a folder of cases without a table", _without_table, "3 cases", good=True),
    OddTable("an empty folder", _empty_folder, "holds no cases"),
    OddTable("a mask on another grid", _mask(_coarser), "does not lie on the grid"),
    OddTable("a mask without the lowest slice", _mask(lambda image: image[:, :, 1:]), "3 cases", good=True),
    OddTable("a mask that is moved by 7 mm", _mask(_moved), "does not lie on the grid"),
    OddTable("a mask in another orientation", _mask(lambda image: sitk.DICOMOrient(image, "RAS")), "3 cases", good=True),
    OddTable("a mask with two labels", _voxels(_two_labels), "holds several labels"),
    OddTable("an empty mask", _voxels(lambda array: array * 0), "The mask is empty"),
    OddTable("a full mask", _voxels(lambda array: array * 0 + 1), "is it the haemorrhage, and not the brain", good=True),
    OddTable("a mask of 0 and 255", _voxels(lambda array: array * 255), "3 cases", good=True),
    OddTable("a mask of probabilities", _voxels(lambda array: array * 0.7 + 0.1), "not a mask of 0 and 1"),
    OddTable("a mask of 0.0 and 1.0", _voxels(lambda array: array.astype(np.float64)), "3 cases", good=True),
    OddTable("a mask with NaN", _voxels(lambda array: np.where(array > 0, np.nan, 0.0)), "not a mask of 0 and 1"),
    OddTable("a mask that is cut short", _cut, "is cut short or damaged"),
    OddTable("a mask with a wrong bit", _bit, "is cut short or damaged"),
    OddTable("a whole mask one slice too high", _mask(_one_slice_up), "lies 1 × 0 × 0 voxels"),
    OddTable(
        "a split that is misspelt", _text(lambda text: text.replace("haemorrhage", "haemorrhage,split").replace("yes", "yes,tset")), "split is 'tset'"
    ),
    OddTable(
        "one patient in two spellings",
        _text(lambda text: text.replace("p01", "P_1").replace("p02", "p-01")),
        "seems to be P_1, written in another way",
    ),
)
