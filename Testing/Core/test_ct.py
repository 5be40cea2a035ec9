"""NIfTI, NRRD, MetaImage in any orientation; refusals; masks and segmentations on the scan's own grid."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from SAHLoRALib.cases import read_annotation
from SAHLoRALib.ct import CTVolume, ct_from_image, format_warnings, mask_image, read_ct, read_label, write_image, write_segmentation
from SAHLoRALib.errors import CaseError, OutputError, ScanError
from small_heads import head_hu, head_image, noisy, points_of, write_series

ORIENTATIONS = [(order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)]


def _turned(image: sitk.Image, order: tuple[int, ...], flips: tuple[bool, ...]) -> sitk.Image:
    """The same voxels at the same places, stored in another axis order."""
    return sitk.Flip(sitk.PermuteAxes(image, order), flips, False)


def _sheared(image: sitk.Image, degrees: float = 15.0) -> sitk.Image:
    """The same slices as a tilted gantry takes them: rows and columns turned, stacked along z."""
    angle = np.radians(degrees)
    turned = sitk.Image(image)
    turned.SetDirection((1, 0, 0, 0, np.cos(angle), 0, 0, -np.sin(angle), 1))
    return turned


def _affine(image: sitk.Image) -> np.ndarray:
    matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return np.column_stack((matrix, image.GetOrigin()))


def _physical(image: sitk.Image) -> np.ndarray:
    """LPS mm of the set voxels, sorted."""
    points = [image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]) for index in np.argwhere(sitk.GetArrayViewFromImage(image))]
    return np.array(sorted(tuple(np.round(p, 3) + 0.0) for p in points))


@pytest.fixture(scope="module")
def head() -> sitk.Image:
    return head_image()


@pytest.fixture
def ct(head: sitk.Image) -> CTVolume:
    return ct_from_image(head)


def _some_mask(ct: CTVolume) -> np.ndarray:
    mask = np.zeros(ct.shape, bool)
    mask[4:6, 20:25, 10:13] = True
    mask[7, 30, 25] = True
    return mask


def test_axial_array_runs_up_back_and_left(ct: CTVolume) -> None:
    shape = ct.shape
    points = points_of(ct.positions, shape[1:], ct.spacing, ct.row_direction, ct.column_direction)
    np.testing.assert_array_equal(ct.hu, head_hu(points))
    assert (np.diff(points[..., 2], axis=0) > 0).all()
    assert (np.diff(points[..., 1], axis=1) > 0).all()
    assert (np.diff(points[..., 0], axis=2) > 0).all()


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_axis_order_gives_the_same_head_and_its_mask_returns_to_the_input_grid(
    head: sitk.Image, ct: CTVolume, order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    image = _turned(head, order, flips)
    other = ct_from_image(image)
    np.testing.assert_array_equal(other.hu, ct.hu)
    np.testing.assert_allclose(other.positions, ct.positions)
    assert other.spacing == ct.spacing
    mask = mask_image(_some_mask(ct), other)
    assert mask.GetSize() == image.GetSize()
    assert mask.GetOrigin() == image.GetOrigin()
    assert mask.GetSpacing() == image.GetSpacing()
    assert mask.GetDirection() == image.GetDirection()
    expected = sitk.GetArrayFromImage(_turned(mask_image(_some_mask(ct), ct), order, flips))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), expected)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (False,) * 3), ((2, 0, 1), (True, False, True)), ((1, 2, 0), (False, True, True))])
def test_files_of_every_kind_are_read_and_masks_lie_on_them_voxel_for_voxel(
    tmp_path: Path, head: sitk.Image, ct: CTVolume, suffix: str, order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(_turned(head, order, flips), str(path))
    other = read_ct(path)
    np.testing.assert_array_equal(other.hu, ct.hu)
    out = tmp_path / f"mask{suffix}"
    write_segmentation(_some_mask(ct), other, out)
    mask = sitk.ReadImage(str(out))
    scan = sitk.ReadImage(str(path))
    assert mask.GetSize() == scan.GetSize()
    np.testing.assert_allclose(_affine(mask), _affine(scan), atol=1e-4)
    np.testing.assert_allclose(_physical(mask), _physical(mask_image(_some_mask(ct), ct)), atol=2e-3)
    np.testing.assert_array_equal(read_label(out, other), _some_mask(ct))
    np.testing.assert_array_equal(read_label(out, ct), _some_mask(ct))  # the same scan in another axis order


def test_oblique_scans_keep_their_direction(head: sitk.Image) -> None:
    turned = sitk.Image(head)
    angle = np.radians(12.0)
    turned.SetDirection((np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1))
    ct = ct_from_image(turned)
    np.testing.assert_allclose(ct.row_direction, (np.cos(angle), np.sin(angle), 0), atol=1e-9)
    assert ct.tilt_degrees == 0.0
    assert mask_image(_some_mask(ct), ct).GetDirection() == turned.GetDirection()


def test_tilt_in_an_nrrd_is_kept_in_the_header_to_the_letter(tmp_path: Path, head: sitk.Image) -> None:
    path, out = tmp_path / "scan.nrrd", tmp_path / "mask.seg.nrrd"
    sitk.WriteImage(_sheared(head), str(path))
    ct = read_ct(path)
    assert ct.tilt_degrees == pytest.approx(15.0)
    np.testing.assert_allclose(ct.gaps_mm, 10.0 * np.cos(np.radians(15.0)))
    write_segmentation(_some_mask(ct), ct, out)

    def lines(file: Path) -> dict[str, str]:
        header = file.read_bytes().split(b"\n\n")[0].decode()
        return dict(line.split(": ") for line in header.splitlines() if ": " in line and ":=" not in line)

    for key in ("space", "space directions", "space origin", "sizes"):
        assert lines(out)[key] == lines(path)[key]
    np.testing.assert_array_equal(read_label(out, ct), _some_mask(ct))


def test_tilt_in_a_nifti_mask_stands_in_its_sform(tmp_path: Path, head: sitk.Image) -> None:
    nibabel = pytest.importorskip("nibabel")
    ct = ct_from_image(_sheared(head))
    for name in ("mask.nii.gz", "mask.nii"):
        write_segmentation(_some_mask(ct), ct, tmp_path / name)
        image = nibabel.load(tmp_path / name)
        np.testing.assert_allclose(image.affine[:3], np.diag((-1, -1, 1)) @ _affine(mask_image(_some_mask(ct), ct)), atol=1e-4)
        assert np.asarray(image.dataobj).sum() == _some_mask(ct).sum()
        np.testing.assert_array_equal(read_label(tmp_path / name, ct), _some_mask(ct))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.nii", "mask.nii.gz"]
    assert "sform" in format_warnings(ct, "mask.nii.gz")[0]
    assert format_warnings(ct, "mask.nrrd") == ()


@pytest.mark.parametrize("with_qform", [True, False])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_tilt_in_a_nifti_scan_is_read_from_its_sform(tmp_path: Path, head: sitk.Image, suffix: str, with_qform: bool) -> None:
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / f"scan{suffix}"
    expected = ct_from_image(_sheared(head))
    affine = np.vstack((np.diag((-1, -1, 1)) @ _affine(_sheared(head)), (0, 0, 0, 1)))
    image = nibabel.Nifti1Image(sitk.GetArrayFromImage(head).T, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine if with_qform else None, 1 if with_qform else 0, strip_shears=True)
    nibabel.save(image, path)
    ct = read_ct(path)
    np.testing.assert_array_equal(ct.hu, expected.hu)
    np.testing.assert_allclose(ct.positions, expected.positions, atol=1e-4)
    assert ct.tilt_degrees == pytest.approx(15.0, abs=1e-3)
    write_segmentation(_some_mask(ct), ct, tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(nibabel.load(tmp_path / "mask.nii.gz").affine, affine, atol=1e-4)


def test_slice_thickness_reaches_half_way_to_the_neighbours(ct: CTVolume) -> None:
    heights = np.array([0.0, 4.0, 8.0, 9.0, 16.0])
    positions = np.zeros((5, 3))
    positions[:, 2] = heights
    uneven = CTVolume(ct.hu[:5], positions, (0.5, 0.4), ct.row_direction, ct.column_direction, ct.storage)
    np.testing.assert_allclose(uneven.slice_thicknesses, (4.0, 4.0, 2.5, 4.0, 7.0))
    np.testing.assert_allclose(uneven.voxel_volumes_ml, np.array((4.0, 4.0, 2.5, 4.0, 7.0)) * 0.5 * 0.4 / 1000)
    assert uneven.uneven


# --- refusals ---------------------------------------------------------------------------------------------------------------------------------


def _write(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _cut(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"scan{suffix}"
        sitk.WriteImage(head_image(hu=noisy), str(path))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "gone.nii.gz", "does not exist"),
        (_write("scan.nii.gz", b""), "empty"),
        (_write("scan.nii.gz", b"hello, this is not an image" * 50), "cannot be read"),
        (_write("scan.nii.gz", gzip.compress(b"nor is this" * 100)), "cannot be read"),
        (_write("scan.docx", b"PK" * 500), "cannot be read"),
        (_cut(".nrrd"), "cannot be read"),
        (_cut(".nii"), "cannot be read"),
        (_cut(".nii.gz"), "cannot be read"),
        (_cut(".mha"), "cannot be read"),
    ],
    ids=["missing", "0 bytes", "text", "gzipped text", "other", "cut nrrd", "cut nii", "cut nii.gz", "cut mha"],
)
def test_unreadable_files_are_refused_with_one_sentence(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    path = make(tmp_path)
    with pytest.raises(ScanError, match=words) as caught:
        read_ct(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_series_cannot_be_chosen_in_a_file(tmp_path: Path, head: sitk.Image) -> None:
    sitk.WriteImage(head, str(tmp_path / "scan.nrrd"))
    with pytest.raises(ScanError, match="no series"):
        read_ct(tmp_path / "scan.nrrd", series="2")


# --- labels and segmentations -----------------------------------------------------------------------------------------------------------------


def test_a_segmentation_has_the_fields_that_slicer_reads(tmp_path: Path, ct: CTVolume) -> None:
    path = tmp_path / "out.seg.nrrd"
    write_segmentation(_some_mask(ct), ct, path, name="Bleed", color=(0.5, 0.25, 0.0))
    header = path.read_bytes().split(b"\n\n")[0].decode()
    fields = dict(line.split(":=", 1) for line in header.splitlines() if ":=" in line)
    assert fields["Segment0_Name"] == "Bleed"
    assert fields["Segment0_Color"] == "0.5 0.25 0"
    assert fields["Segment0_LabelValue"] == "1"
    assert fields["Segment0_Layer"] == "0"
    assert fields["Segment0_Extent"] == "0 39 0 47 0 13"
    assert "SCT^50960005^Hemorrhage" in fields["Segment0_Tags"]
    assert fields["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert "type: unsigned char" in header
    assert "encoding: gzip" in header
    np.testing.assert_array_equal(read_label(path, ct, segment="bleed"), _some_mask(ct))


def _slicer_file(path: Path, ct: CTVolume, crop: bool) -> tuple[np.ndarray, np.ndarray]:
    """A segmentation as Slicer writes it: two overlapping segments in two layers, cropped to what they cover."""
    first, second = _some_mask(ct), np.zeros(ct.shape, bool)
    second[5:8, 22:31, 11:20] = True
    layers = [sitk.Cast(mask_image(m, ct), sitk.sitkUInt8) * v for m, v in ((first, 1), (second, 2))]
    image = sitk.Compose(layers)
    if crop:
        image = image[8:27, 18:33, 3:9]
    for n, (name, value, layer) in enumerate((("Blood", 1, 0), ("Ödem", 2, 1))):
        image.SetMetaData(f"Segment{n}_ID", f"Segment_{n}")
        image.SetMetaData(f"Segment{n}_Name", name)
        image.SetMetaData(f"Segment{n}_LabelValue", str(value))
        image.SetMetaData(f"Segment{n}_Layer", str(layer))
    sitk.WriteImage(image, str(path))
    return first, second


@pytest.mark.parametrize("crop", [False, True])
def test_segments_are_read_by_name_from_layers_and_reduced_extents(tmp_path: Path, ct: CTVolume, crop: bool) -> None:
    path = tmp_path / "two.seg.nrrd"
    first, second = _slicer_file(path, ct, crop)
    np.testing.assert_array_equal(read_label(path, ct, "Blood"), first)
    np.testing.assert_array_equal(read_label(path, ct, "Ödem"), second)
    with pytest.raises(CaseError, match="Blood, Ödem"):
        read_label(path, ct)
    with pytest.raises(CaseError, match="no segment 'Tumour'"):
        read_label(path, ct, "Tumour")


def test_a_name_means_all_segments_that_bear_it(tmp_path: Path, ct: CTVolume) -> None:
    path = tmp_path / "twins.seg.nrrd"
    image = mask_image(_some_mask(ct).astype(np.uint8), ct)
    image[10, 20, 4] = 2 * image[10, 20, 4]
    assert (sitk.GetArrayViewFromImage(image) == 2).sum() == 1
    for n in range(2):
        for field, value in (("ID", f"Segment_{n}"), ("Name", "Bleed"), ("LabelValue", str(n + 1)), ("Layer", "0")):
            image.SetMetaData(f"Segment{n}_{field}", value)
    sitk.WriteImage(image, str(path))
    for segment in ("bleed", "*"):
        np.testing.assert_array_equal(read_annotation(path, ct, segment), _some_mask(ct))
    with pytest.raises(CaseError, match=r"holds 2 segments \(Bleed, Bleed\)"):
        read_label(path, ct)


def test_label_values_choose_a_structure(tmp_path: Path, ct: CTVolume) -> None:
    labels = _some_mask(ct).astype(np.uint8)
    labels[2] = 3
    write_image(mask_image(labels, ct), tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(read_label(tmp_path / "labels.nii.gz", ct), labels > 0)
    np.testing.assert_array_equal(read_label(tmp_path / "labels.nii.gz", ct, "3"), labels == 3)
    np.testing.assert_array_equal(read_label(tmp_path / "labels.nii.gz", None, "1"), labels == 1)
    with pytest.raises(CaseError, match="no named segments"):
        read_label(tmp_path / "labels.nii.gz", ct, "Blood")


@pytest.mark.parametrize("change", ["shift", "spacing", "outside", "size"])
def test_a_mask_of_another_grid_is_refused(tmp_path: Path, ct: CTVolume, change: str) -> None:
    image = mask_image(_some_mask(ct), ct)
    origin = np.array(image.GetOrigin())
    if change == "shift":
        image.SetOrigin(tuple(origin + np.array((2.0, 0, 0))))
    elif change == "spacing":
        image.SetSpacing((4.4, 4.5, 10.0))
    elif change == "outside":
        image.SetOrigin(tuple(origin + np.array((0, 0, 100.0))))
    else:
        image = sitk.Expand(image, (2, 2, 1))
    write_image(image, tmp_path / "mask.nrrd")
    with pytest.raises(CaseError, match="this very scan"):
        read_label(tmp_path / "mask.nrrd", ct)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_whole_mask_that_lies_whole_voxels_off_is_refused_and_a_part_is_put_in_its_place(tmp_path: Path, ct: CTVolume, axis: int) -> None:
    image = mask_image(_some_mask(ct), ct)
    part = image[5:30, 15:35, 3:9]
    write_image(part, tmp_path / "part.nrrd")
    np.testing.assert_array_equal(read_label(tmp_path / "part.nrrd", ct), _some_mask(ct))
    index = [0, 0, 0]
    index[axis] = 1
    image.SetOrigin(image.TransformIndexToPhysicalPoint(index))
    write_image(image, tmp_path / "mask.nrrd")
    with pytest.raises(CaseError, match=r"has the size of the scan .* voxels .slices, rows, columns. off it"):
        read_label(tmp_path / "mask.nrrd", ct)


def test_a_part_of_a_mask_finds_its_slices_among_uneven_ones(tmp_path: Path) -> None:
    """Cut out by the slices' true places with the first gap as the step, or from a file on the mean step, as this program and Slicer write it."""
    heights = np.concatenate((np.arange(12) * 5.0, 60 + np.arange(10) * 8.0)) - 66
    write_series(tmp_path / "dicom", heights)
    ct = read_ct(tmp_path / "dicom")
    for k in (2, 9, 10):
        whole = np.zeros(ct.shape, bool)
        whole[k : k + 2, 20:25, 10:13] = True
        for count in (1, 2):
            true = np.zeros(ct.shape, bool)
            true[k : k + count] = whole[k : k + count]
            cut = sitk.GetImageFromArray(true[k : k + count].astype(np.uint8))
            cut.SetSpacing((*ct.spacing[::-1], 5.0))
            cut.SetOrigin(tuple(ct.positions[k]))
            write_image(cut, tmp_path / "cut.nrrd")
            np.testing.assert_array_equal(read_label(tmp_path / "cut.nrrd", ct), true)
            write_image(mask_image(true, ct)[:, :, k : k + count], tmp_path / "mean.nrrd")
            np.testing.assert_array_equal(read_label(tmp_path / "mean.nrrd", ct), true)
    for height in (85.0, 100.0):  # slice 17 for who counts by 5 mm, at 100 mm for who measures; near slice 15 and on 17
        cut = sitk.GetImageFromArray(np.ones((1, *ct.shape[1:]), np.uint8))
        cut.SetSpacing((*ct.spacing[::-1], 5.0))
        cut.SetOrigin(tuple(ct.positions[0] + (0, 0, height)))
        write_image(cut, tmp_path / "cut.nrrd")
        with pytest.raises(CaseError, match="whose gaps are uneven"):
            read_label(tmp_path / "cut.nrrd", ct)
    cut = sitk.GetImageFromArray(np.ones((2, *ct.shape[1:]), np.uint8))
    cut.SetSpacing((*ct.spacing[::-1], 5.0))
    cut.SetOrigin(tuple(ct.positions[14]))  # where the gap is 8 mm
    write_image(cut, tmp_path / "cut.nrrd")
    with pytest.raises(CaseError, match="whose gaps are uneven"):
        read_label(tmp_path / "cut.nrrd", ct)


def test_rounding_in_a_header_is_forgiven(tmp_path: Path, ct: CTVolume) -> None:
    image = mask_image(_some_mask(ct), ct)
    image.SetOrigin(tuple(np.array(image.GetOrigin()) + 0.01))
    write_image(image, tmp_path / "mask.nrrd")
    np.testing.assert_array_equal(read_label(tmp_path / "mask.nrrd", ct), _some_mask(ct))


def test_a_mask_with_another_single_step_fits_a_scan_with_uneven_gaps(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", np.concatenate((np.arange(-66.0, -10.0, 4.0), np.arange(-9.0, 66.0, 7.5))), tilt=15.0)
    ct = read_ct(tmp_path / "dicom")
    image = mask_image(_some_mask(ct), ct)
    image.SetSpacing((*image.GetSpacing()[:2], 4.0))
    write_image(image, tmp_path / "mask.nrrd")
    np.testing.assert_array_equal(read_label(tmp_path / "mask.nrrd", ct), _some_mask(ct))


def test_an_unreadable_mask_is_a_case_error(tmp_path: Path, ct: CTVolume) -> None:
    with pytest.raises(CaseError, match="does not exist"):
        read_label(tmp_path / "gone.nrrd", ct)
    (tmp_path / "bad.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(CaseError, match="cannot be read"):
        read_label(tmp_path / "bad.nrrd", ct)


def test_writing_to_a_bad_place_is_an_output_error_and_leaves_nothing(tmp_path: Path, ct: CTVolume) -> None:
    with pytest.raises(OutputError, match="file type"):
        write_segmentation(_some_mask(ct), ct, tmp_path / "mask.xyz")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        write_segmentation(_some_mask(ct), ct, tmp_path / "file" / "mask.nrrd")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_packed_file_is_not_mistaken_for_the_unpacked_one_beside_it(tmp_path: Path, head: sitk.Image) -> None:
    sitk.WriteImage(head + 7, str(tmp_path / "scan.nii"))
    sitk.WriteImage(head, str(tmp_path / "scan.nii.gz"))
    assert read_ct(tmp_path / "scan.nii").hu.max() == read_ct(tmp_path / "scan.nii.gz").hu.max() + 7


@pytest.mark.parametrize("skew", [1e-5, 1e-4, 3e-4, 9e-4, 5e-3])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_slices_that_drift_a_little_are_read_without_a_qform_and_the_mask_lies_on_them(
    tmp_path: Path, head: sitk.Image, suffix: str, skew: float
) -> None:
    nibabel = pytest.importorskip("nibabel")
    affine = np.vstack((np.diag((-1, -1, 1)) @ _affine(head), (0, 0, 0, 1)))
    affine[1, 2] += skew * affine[2, 2]
    nibabel.save(nibabel.Nifti1Image(sitk.GetArrayFromImage(head).T, affine), tmp_path / f"scan{suffix}")
    ct = read_ct(tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(ct.hu, ct_from_image(head).hu)
    write_segmentation(_some_mask(ct), ct, tmp_path / f"mask{suffix}")
    np.testing.assert_allclose(nibabel.load(tmp_path / f"mask{suffix}").affine, affine, atol=0.02)
    np.testing.assert_array_equal(read_label(tmp_path / f"mask{suffix}", ct), _some_mask(ct))


def test_a_qform_and_an_sform_that_lie_apart_are_told(tmp_path: Path, head: sitk.Image) -> None:
    nibabel = pytest.importorskip("nibabel")
    affine = np.vstack((np.diag((-1, -1, 1)) @ _affine(head), (0, 0, 0, 1)))
    image = nibabel.Nifti1Image(sitk.GetArrayFromImage(head).T, affine)
    for moved in (0.0, 10.0):
        other = affine.copy()
        other[0, 3] += moved
        image.set_qform(affine, 1)
        image.set_sform(other, 2)
        nibabel.save(image, tmp_path / "scan.nii.gz")
        told = [w for w in read_ct(tmp_path / "scan.nii.gz").warnings if "two geometries" in w]
        assert len(told) == (moved > 0) and all("10.0 mm apart" in w for w in told)


def test_wide_gaps_of_a_protocol_are_measured_and_a_hole_is_not(ct: CTVolume) -> None:
    for heights, missing in (([0.0, 2.5, 5.0, 7.5, 10.0, 30.0, 50.0], []), ([0.0, 5.0, 10.0, 15.0, 45.0, 50.0, 55.0], [3])):
        positions = np.zeros((7, 3))
        positions[:, 2] = heights
        some = CTVolume(ct.hu[:7], positions, (0.5, 0.4), ct.row_direction, ct.column_direction, ct.storage)
        assert list(np.flatnonzero(some.missing)) == missing
    np.testing.assert_allclose(some.slice_thicknesses, 5.0)
