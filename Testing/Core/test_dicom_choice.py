"""DICOM folders of several series: which is chosen, by name or by itself, and what is told about the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from SAHLoRALib.ct import list_series, read_ct
from SAHLoRALib.dicom import choose_series
from SAHLoRALib.errors import ScanError
from small_heads import EVEN, write_series


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
