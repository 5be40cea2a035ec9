"""DICOM folders: series, choice, true positions, refusals."""

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
from SAHLoRALib.dicom import choose_series
from SAHLoRALib.errors import ScanError
from small_heads import head_hu, points_of, tilted_axes, write_series

EVEN = np.arange(-65.0, 66.0, 10.0)
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


def _study(folder: Path) -> None:
    fine = np.linspace(-62.0, 62.0, 22)
    write_series(folder / "s1", [0.0], SeriesNumber=1, SeriesDescription="Scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder / "deep" / "s2", fine, SeriesNumber=2, SeriesDescription="HEAD STND", ConvolutionKernel="STANDARD")
    write_series(folder / "deep" / "s3", fine, SeriesNumber=3, SeriesDescription="HEAD BONE", ConvolutionKernel="BONEPLUS")
    coronal = (np.array([1.0, 0, 0]), np.array([0, 0, -1.0]))
    write_series(folder / "s4", fine, axes=coronal, SeriesNumber=4, SeriesDescription="Head cor", ImageType=["DERIVED", "SECONDARY", "MPR"])
    write_series(folder / "s5", fine, SeriesNumber=5, SeriesDescription="C-Spine 2.0", SliceThickness=2)
    write_series(folder / "s6", np.linspace(-62, 62, 30), SeriesNumber=6, SeriesDescription="HEAD thin", SliceThickness=0.6)
    write_series(folder / "s7", fine, SeriesNumber=7, SeriesDescription="Face axial")
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    _study(folder)
    return folder


def test_the_axial_soft_tissue_head_series_is_chosen_and_the_choice_is_told(study: Path) -> None:
    ct = read_ct(study)
    assert ct.series == "series 2 “HEAD STND”"
    assert len(ct.hu) == 22
    told = ct.warnings[0]
    assert "7 series found" in told
    assert "series 2 “HEAD STND” chosen" in told
    assert "sharp kernel" in told


def test_series_are_listed_with_reasons(study: Path) -> None:
    found = {s.number: s for s in list_series(study)}
    assert set(found) == {1, 2, 3, 4, 5, 6, 7}
    assert next(iter(list_series(study))).number == 2
    assert not found[1].usable
    assert found[4].orientation == "coronal"
    assert not found[4].usable
    assert not found[5].usable
    assert "spine" in found[5].reason
    assert found[6].score < found[2].score
    assert found[6].slices == 30


@pytest.mark.parametrize("name", ["3", "HEAD BONE", "bone"])
def test_a_series_is_named_by_number_or_description(study: Path, name: str) -> None:
    assert read_ct(study, series=name).series == "series 3 “HEAD BONE”"


def test_a_series_is_named_by_uid(study: Path) -> None:
    uid = next(s.uid for s in list_series(study) if s.number == 6)
    assert read_ct(study, series=uid).series == "series 6 “HEAD thin”"


@pytest.mark.parametrize(("name", "words"), [("99", "no series"), ("head", "fits"), ("4", "coronal"), ("1", "slice")])
def test_a_name_that_fits_no_or_several_or_an_unfit_series_is_refused(study: Path, name: str, words: str) -> None:
    with pytest.raises(ScanError, match=words):
        read_ct(study, series=name)


def test_a_bone_series_alone_is_taken_with_a_warning(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, SeriesDescription="Bone", ConvolutionKernel="H70h")
    assert any("not a typical soft-tissue head series" in w for w in read_ct(tmp_path).warnings)


def test_without_contrast_is_no_contrast(tmp_path: Path) -> None:
    fine = np.linspace(-62.0, 62.0, 22)
    write_series(tmp_path / "a", fine, SeriesNumber=1, SeriesDescription="Head with contrast")
    write_series(tmp_path / "b", fine, SeriesNumber=2, SeriesDescription="Head without contrast")
    assert list_series(tmp_path)[0].number == 2


def test_names_of_patients_appear_nowhere(study: Path) -> None:
    ct = read_ct(study)
    text = repr([ct.warnings, ct.series, ct.source, list_series(study)])
    assert "Doe" not in text
    assert "P-4711" not in text  # a UID may hold the number by chance


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


def _two(folder: Path, one: dict, other: dict, slices: int = 22, others: int = 22) -> list:
    write_series(folder / "a", np.linspace(-62.0, 62.0, slices), SeriesNumber=1, **one)
    write_series(folder / "b", np.linspace(-62.0, 62.0, others), SeriesNumber=2, **other)
    return list_series(folder)


@pytest.mark.parametrize(
    ("native", "enhanced"),
    [
        ({"SeriesDescription": "HEAD WO CONTRAST"}, {"SeriesDescription": "HEAD POST"}),
        ({"SeriesDescription": "HEAD WITHOUT IV CONTRAST"}, {"SeriesDescription": "HEAD W IV"}),
        ({"SeriesDescription": "Head non-contrast"}, {"SeriesDescription": "Head +C"}),
        ({"SeriesDescription": "Head 1.0 J40s nativ", "SliceThickness": 1.0}, {"SeriesDescription": "Head 5.0 KM"}),
        ({"SeriesDescription": "HEAD W/O C"}, {"SeriesDescription": "HEAD W/C"}),
        ({"SeriesDescription": "Kopf ohne KM"}, {"SeriesDescription": "Kopf venös", "SpecificCharacterSet": "ISO_IR 100"}),
        ({"SeriesDescription": "Head Low-Dose 5.0"}, {"SeriesDescription": "Head post KM 5.0"}),
        (
            {"SeriesDescription": "Head, contrast agent none", "ContrastBolusAgent": "NONE"},
            {"SeriesDescription": "Head", "ContrastBolusAgent": "Omnipaque"},
        ),
    ],
)
def test_the_native_series_is_chosen_before_one_with_contrast_agent(tmp_path: Path, native: dict, enhanced: dict) -> None:
    found = _two(tmp_path, native, enhanced)
    assert found[0].number == 1, [(s.title, s.score, s.reason) for s in found]
    assert found[1].enhanced


@pytest.mark.parametrize("name", ["CT Plain", "w/o contrast 5.0"])
@pytest.mark.parametrize(
    "derived",
    [
        "Head Subtraction",
        "Head CT Venogram",
        "Monoenergetic 40 keV head",
        "Stroke RAPID head results",
        "Rho/Z Head",
        "Head VNC 5.0",
        "Brain Iodine Overlay",
    ],
)
def test_maps_and_what_other_programs_computed_do_not_win_by_their_number_of_slices(tmp_path: Path, name: str, derived: str) -> None:
    found = _two(tmp_path, {"SeriesDescription": name}, {"SeriesDescription": derived}, 22, 28)
    assert found[0].number == 1, [(s.title, s.score, s.reason) for s in found]
    assert found[1].enhanced == ("Venogram" in derived)


def test_a_series_that_is_as_likely_as_the_chosen_one_is_told(tmp_path: Path) -> None:
    _two(tmp_path, {"SeriesDescription": "Head 80kV"}, {"SeriesDescription": "Head 5.0"}, 28, 22)
    assert any("series 1" in w.split(" chosen")[0] and "as likely: name it if it is the one" in w for w in read_ct(tmp_path).warnings)
    assert not any("as likely" in w for w in read_ct(tmp_path / "a").warnings)


@pytest.mark.parametrize("kernel", [{}, {"ConvolutionKernel": "H31s"}])
def test_a_head_in_two_series_one_above_the_other_says_that_a_part_is_left_out(tmp_path: Path, kernel: dict) -> None:
    low, high = np.arange(-60.0, -7.9, 4.0), np.arange(-2.0, 62.0, 7.0)
    write_series(tmp_path / "a", low, SeriesNumber=2, SeriesDescription="Head base 4mm", SliceThickness=4, **kernel)
    write_series(tmp_path / "b", high, SeriesNumber=3, SeriesDescription="Head vertex 7mm", SliceThickness=7, **kernel)
    for number, other in (("2", "above"), ("3", "below")):
        told = choose_series(tmp_path, number)[1]
        assert any("one part of a head" in w and f"slices {other} it" in w for w in told), told
    write_series(tmp_path / "c", low, SeriesNumber=4, SeriesDescription="Head base", ConvolutionKernel="H70h")
    write_series(tmp_path / "d", np.arange(-60.0, 62.0, 5.0), SeriesNumber=5, SeriesDescription="Head", **kernel)
    write_series(tmp_path / "e", np.arange(-160.0, -61.0, 5.0), SeriesNumber=6, SeriesDescription="Neck", **kernel)
    for number in ("4", "5", "6"):
        assert not any("one part" in w for w in choose_series(tmp_path, number)[1]), number


def test_few_thick_slices_are_better_than_an_angiogram(tmp_path: Path) -> None:
    assert _two(tmp_path, {"SeriesDescription": "BRAIN 7MM"}, {"SeriesDescription": "COW 0.625", "SliceThickness": 0.625}, 18, 60)[0].number == 1


def test_a_series_with_contrast_agent_is_taken_with_a_warning(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, ContrastBolusAgent="APPLIED")
    assert any("contrast agent" in w for w in read_ct(tmp_path).warnings)
    assert any("contrast agent" in w for w in read_ct(tmp_path, series="2").warnings)


def test_posterior_fossa_and_low_dose_are_plain_heads(tmp_path: Path) -> None:
    for n, name in enumerate(("HEAD LOW DOSE 5mm", "HEAD/C-SPINE 3.0", "Head post fossa", "HEAD NO CONTRAST")):
        write_series(tmp_path / str(n), EVEN, SeriesDescription=name)
        [series] = list_series(tmp_path / str(n))
        assert series.usable and not series.enhanced, series.reason
    write_series(tmp_path / "report", EVEN, SeriesDescription="Dose Report")
    assert not list_series(tmp_path / "report")[0].usable


def test_scans_of_two_patients_in_one_folder_are_refused_and_of_two_examinations_told(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN)
    write_series(tmp_path / "b", EVEN, SeriesNumber=3, StudyInstanceUID="1.2.4")
    assert any("2 examinations" in w for w in read_ct(tmp_path).warnings)
    write_series(tmp_path / "same", EVEN, SeriesNumber=5, PatientID=" p-4711 ")
    assert not any("2 patients" in w for w in read_ct(tmp_path).warnings)
    write_series(tmp_path / "c", EVEN, SeriesNumber=4, PatientID="P-4712")
    with pytest.raises(ScanError, match="2 patients; give each a folder") as refused:
        read_ct(tmp_path)
    assert "4711" not in str(refused.value) and "4712" not in repr(list_series(tmp_path)[0].headers[0].fields)
    assert read_ct(tmp_path, series="4").series.startswith("series 4")


def test_slices_that_share_a_number_are_all_kept(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, SOPInstanceUID="1.2.3.4")
    assert len(read_ct(tmp_path).hu) == len(EVEN)


def test_a_series_that_goes_on_with_other_pixels_says_that_a_part_is_left_out(tmp_path: Path) -> None:
    def narrower(data: Dataset, k: int) -> None:
        if k >= 9:
            data.PixelSpacing = [4.2, 4.2]

    write_series(tmp_path, EVEN, change=narrower)
    ct = read_ct(tmp_path)
    assert len(ct.hu) == 9 and any("goes on with 5 slices" in w for w in ct.warnings)


def test_a_dynamic_series_does_not_win_by_its_number_of_slices(tmp_path: Path) -> None:
    write_series(tmp_path / "native", np.linspace(-62.0, 62.0, 22), SeriesNumber=3, SeriesDescription="Nativ 5.0", ProtocolName="Head Stroke")
    heights = np.repeat(np.linspace(-62.0, 62.0, 22), 3)
    write_series(tmp_path / "again", heights, SeriesNumber=7, SeriesDescription="VPCT 5.0", ProtocolName="Head Stroke")
    found = list_series(tmp_path)
    assert found[0].number == 3 and "66 images at 22 positions" in found[1].reason


def test_exchanged_black_and_white_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, EVEN, PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(ScanError, match="MONOCHROME1"):
        read_ct(tmp_path)


def test_a_slice_that_lies_far_off_does_not_thicken_the_last_one(tmp_path: Path) -> None:
    write_series(tmp_path, [*EVEN, 365.0])
    ct = read_ct(tmp_path)
    assert ct.slice_thicknesses == pytest.approx(10.0)
    assert any("Between slices 14 and 15 lie 300 mm" in w for w in ct.warnings)


def test_two_names_of_a_patient_in_one_examination_are_told(tmp_path: Path) -> None:
    write_series(tmp_path / "a", EVEN)
    write_series(tmp_path / "b", EVEN, SeriesNumber=3, PatientID="X2", SeriesDescription="Bone")
    assert any("name 2 patients in one examination" in w for w in read_ct(tmp_path).warnings)


@pytest.mark.parametrize(
    ("head", "other"),
    [
        ({"SeriesDescription": "Head 5.0"}, {"SeriesDescription": "CT HEAD/C-SPINE Spine 2.0", "SliceThickness": 2}),
        ({"SeriesDescription": "HEAD 5.0"}, {"SeriesDescription": "HEAD WO BONE 3.0"}),
        ({"SeriesDescription": "CT PRE CONTRAST 5MM STD"}, {"SeriesDescription": "CT 4cc sec 150cc D3D on", "SliceThickness": 0.625}),
        ({"SeriesDescription": "Head w/o contrast 5.0", "ContrastBolusAgent": "Omnipaque"}, {"SeriesDescription": "Head bone"}),
    ],
)
def test_the_head_is_chosen_before_spine_bone_and_bolus(tmp_path: Path, head: dict, other: dict) -> None:
    found = _two(tmp_path, head, other, 22, 60)
    assert found[0].number == 1, [(s.title, s.score, s.reason) for s in found]
