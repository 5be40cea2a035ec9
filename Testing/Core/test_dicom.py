"""DICOM folders: true positions, damaged and missing slices, refusals."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from SAHLoRALib.ct import list_series, mask_image, read_ct
from SAHLoRALib.errors import ScanError
from small_heads import EVEN, head_hu, points_of, tilted_axes, write_series

UNEVEN = np.concatenate((np.arange(-66.0, -10.0, 4.0), np.arange(-9.0, 66.0, 7.5)))


def test_slices_are_sorted_and_in_hu(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN)
    ct = read_ct(tmp_path)
    assert ct.hu.dtype == np.float32
    assert ct.shape == (14, 48, 40)
    assert ct.spacing == (4.5, 4.5)
    np.testing.assert_allclose(ct.positions[:, 2], EVEN)
    rows, columns = tilted_axes(0)
    np.testing.assert_array_equal(ct.hu, head_hu(points_of(ct.positions, (48, 40), (4.5, 4.5), rows, columns)))
    assert ct.tilt_degrees == 0.0
    assert not ct.uneven
    assert not any("tilt" in w or "gaps" in w or "series" in w for w in ct.warnings)


@pytest.mark.parametrize("tilt", [18.5, -12.0])
def test_tilt_and_uneven_gaps_come_from_the_positions(tmp_path: Path, tilt: float) -> None:
    write_series(tmp_path, UNEVEN, tilt=tilt)
    ct = read_ct(tmp_path)
    assert ct.tilt_degrees == pytest.approx(tilt, abs=0.01)
    np.testing.assert_allclose(ct.gaps_mm, np.diff(UNEVEN) * np.cos(np.radians(tilt)), atol=1e-4)
    np.testing.assert_allclose(ct.positions[:, 2] - ct.positions[0, 2], UNEVEN - UNEVEN[0], atol=1e-5)
    np.testing.assert_allclose(ct.positions[:, 1], ct.positions[0, 1], atol=1e-5)
    rows, columns = tilted_axes(tilt)
    expected = head_hu(points_of(ct.positions, (48, 40), (4.5, 4.5), rows, columns))
    assert (ct.hu != expected).mean() < 1e-3  # a rounded header may move a voxel on the very edge
    assert any("tilt" in w for w in ct.warnings)
    assert any("gaps" in w for w in ct.warnings)


def test_tilt_is_unsigned_where_header_and_positions_disagree(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, tilt=10.0, GantryDetectorTilt=-25.0)
    ct = read_ct(tmp_path)
    assert ct.tilt_degrees == pytest.approx(10.0, abs=0.01)
    assert any("header states" in w for w in ct.warnings)


def test_mask_of_a_tilted_series_states_first_slice_true_axes_and_mean_step(tmp_path: Path) -> None:
    write_series(tmp_path, UNEVEN, tilt=18.5)
    ct = read_ct(tmp_path)
    image = mask_image(np.zeros(ct.shape, bool), ct)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(image.GetOrigin(), ct.positions[0], atol=1e-6)
    np.testing.assert_allclose(direction[:, 0], ct.row_direction, atol=1e-6)
    np.testing.assert_allclose(direction[:, 1], ct.column_direction, atol=1e-6)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((0, 0, len(UNEVEN) - 1)), ct.positions[-1], atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [((-1, 0, 0), (0, -1, 0)), ((1, 0, 0), (0, -1, 0)), ((-1, 0, 0), (0, 1, 0)), ((0, 1, 0), (1, 0, 0))],
    ids=["prone", "upside down", "mirrored", "transposed"],
)
def test_any_orientation_of_axial_slices_becomes_the_same_head(tmp_path: Path, rows: tuple, columns: tuple) -> None:
    shape = (40, 48) if rows[1] else (48, 40)
    write_series(tmp_path / "other", EVEN, axes=(np.array(rows, float), np.array(columns, float)), shape=shape)
    write_series(tmp_path / "plain", EVEN)
    other, plain = read_ct(tmp_path / "other"), read_ct(tmp_path / "plain")
    np.testing.assert_array_equal(other.hu, plain.hu)
    np.testing.assert_allclose(other.positions, plain.positions, atol=1e-5)
    np.testing.assert_allclose(other.row_direction, plain.row_direction, atol=1e-6)
    voxel = np.zeros(other.shape, bool)
    voxel[3, 5, 7] = True
    image = mask_image(voxel, other)
    x, y, z = (int(i[0]) for i in np.nonzero(sitk.GetArrayFromImage(image).T))
    expected = plain.positions[3] + 5 * 4.5 * plain.column_direction + 7 * 4.5 * plain.row_direction
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((x, y, z)), expected, atol=1e-4)


def test_padding_becomes_air(tmp_path: Path) -> None:
    def pad(data: Dataset, k: int) -> None:
        pixels = np.frombuffer(data.PixelData, "<u2").astype("<i2").reshape(48, 40) - 1024
        pixels[:3] = -3024
        data.PixelRepresentation, data.RescaleIntercept = 1, 0
        data.PixelData = pixels.tobytes()

    write_series(tmp_path, EVEN, change=pad)
    assert read_ct(tmp_path).hu.min() == -1024.0


def test_a_rescale_slope_that_differs_from_slice_to_slice_is_applied(tmp_path: Path) -> None:
    def rescale(data: Dataset, k: int) -> None:
        if k % 2:
            stored = np.frombuffer(data.PixelData, "<u2")
            data.RescaleSlope, data.RescaleIntercept = 0.5, -1024
            data.PixelData = (stored * 2).astype("<u2").tobytes()

    write_series(tmp_path / "a", EVEN, change=rescale)
    write_series(tmp_path / "b", EVEN)
    np.testing.assert_allclose(read_ct(tmp_path / "a").hu, read_ct(tmp_path / "b").hu)


def test_descriptions_in_latin_letters_are_read(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, SpecificCharacterSet="ISO_IR 100", SeriesDescription="Schädel nativ")
    assert read_ct(tmp_path).series == "series 2 “Schädel nativ”"


def test_jitter_of_the_orientation_splits_no_series(tmp_path: Path) -> None:
    def jitter(data: Dataset, k: int) -> None:
        data.ImageOrientationPatient[4] = f"{0.945 + 1e-5 * (-1) ** k:.6f}"

    write_series(tmp_path, EVEN, tilt=np.degrees(np.arccos(0.945)), change=jitter)
    assert len(list_series(tmp_path)) == 1


def test_a_slice_copied_twice_counts_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", EVEN)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert len(read_ct(tmp_path).hu) == len(paths)


def test_reports_beside_the_images_do_no_harm(tmp_path: Path) -> None:
    paths = write_series(tmp_path, EVEN)
    report = pydicom.dcmread(paths[0])
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"):
        delattr(report, keyword)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    report.Modality = "SR"
    report.save_as(tmp_path / "report.dcm")
    assert len(read_ct(tmp_path).hu) == len(EVEN)


def _truncate(paths: list[Path]) -> None:
    paths[4].write_bytes(paths[4].read_bytes()[:-1500])


def _cut_in_header(paths: list[Path]) -> None:
    paths[4].write_bytes(paths[4].read_bytes()[:700])


@pytest.mark.parametrize("damage", [_truncate, _cut_in_header])
def test_a_truncated_slice_is_refused(tmp_path: Path, damage: object) -> None:
    damage(write_series(tmp_path, EVEN))
    with pytest.raises(ScanError, match="cut short"):
        read_ct(tmp_path)


def _without_one_spacing(data: Dataset, k: int) -> None:
    if k == 5:
        del data.PixelSpacing


def _frames(data: Dataset, k: int) -> None:
    data.NumberOfFrames = 2
    data.PixelData = data.PixelData * 2


def _two_at_one_place(data: Dataset, k: int) -> None:
    if k == 5:
        data.ImagePositionPatient[2] = EVEN[4]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"Modality": "MR"}, "not CT but MR"),
        ({"PixelSpacing": None}, "PixelSpacing is missing"),
        ({"PixelSpacing": [0, 0]}, "impossible values"),
        ({"change": _without_one_spacing}, "PixelSpacing is missing in 1 of 14"),
        ({"change": _frames}, "multi-frame"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        ({"ImageOrientationPatient": None}, "ImageOrientationPatient is missing"),
        ({"RescaleIntercept": None, "RescaleSlope": None}, "rescale intercept"),
        ({"change": _two_at_one_place}, "two slices at one position"),
        ({"SeriesDescription": "Dose report"}, "dose"),
        ({"axes": (np.array([0, 1.0, 0]), np.array([0, 0, -1.0]))}, "sagittal, not axial"),
    ],
)
def test_what_cannot_be_used_is_refused_with_one_sentence(tmp_path: Path, arguments: dict, words: str) -> None:
    write_series(tmp_path, EVEN, **arguments)
    with pytest.raises(ScanError, match=words) as caught:
        read_ct(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices_are_refused(tmp_path: Path, count: int) -> None:
    write_series(tmp_path, EVEN[:count])
    with pytest.raises(ScanError, match=f"only {count} slice"):
        read_ct(tmp_path)


def test_a_single_dicom_file_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, EVEN)
    with pytest.raises(ScanError, match="give the folder"):
        read_ct(paths[0])


def test_a_folder_without_dicom_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(ScanError, match="no DICOM files"):
        read_ct(tmp_path)
    with pytest.raises(ScanError, match="does not exist"):
        read_ct(tmp_path / "gone")


def test_a_missing_slice_in_the_middle_is_told(tmp_path: Path) -> None:
    write_series(tmp_path, np.delete(EVEN, 6))
    assert any(re.search(r"10\.00 to 20\.00", w) for w in read_ct(tmp_path).warnings)


def test_slices_that_share_a_number_are_all_kept(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, SOPInstanceUID="1.2.3.4")
    assert len(read_ct(tmp_path).hu) == len(EVEN)


def test_exchanged_black_and_white_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(ScanError, match="MONOCHROME1"):
        read_ct(tmp_path)


def test_a_slice_that_lies_far_off_does_not_thicken_the_last_one(tmp_path: Path) -> None:
    write_series(tmp_path, [*EVEN, 365.0])
    ct = read_ct(tmp_path)
    assert ct.slice_thicknesses == pytest.approx(10.0)
    assert any("Between slices 14 and 15 lie 300 mm" in w for w in ct.warnings)
