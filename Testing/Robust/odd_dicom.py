"""DICOM folders as archives really hold them: every fault that a series can have, each written by a function of its own."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from heads import HEIGHTS, SIZE, SPACING, bleeding
from odd_scan import OddScan, taken
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless, generate_uid
from small_heads import tilted_axes, write_series

MIDDLE = len(HEIGHTS) // 2


def series(folder: Path, heights: Any = HEIGHTS, **settings: Any) -> list[Path]:
    """The usual head as a series of 30 slices; returns the files from the lowest slice up."""
    return write_series(folder, heights, **{"shape": SIZE[1::-1], "spacing": SPACING[1::-1], "hu": bleeding, **settings})


def _plain(**settings: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        series(folder / "scan", **settings)
        return folder / "scan"

    return make


def _then(change: Callable[[list[Path], Path], Any], **settings: Any) -> Callable[[Path], Path]:
    """A series whose files are changed afterwards: change(files, folder)."""

    def make(folder: Path) -> Path:
        change(series(folder / "scan", **settings), folder / "scan")
        return folder / "scan"

    return make


def _each(change: Callable[[Dataset, int], Any], **settings: Any) -> Callable[[Path], Path]:
    return _plain(change=change, **settings)


def _rewrite(paths: list[Path], change: Callable[[Dataset], Any], **saving: Any) -> None:
    for path in paths:
        data = pydicom.dcmread(path)
        change(data)
        data.save_as(path, **saving)


def _syntax(uid: str) -> Callable[[Path], Path]:
    """The series in another transfer syntax that pydicom writes."""

    def change(paths: list[Path], folder: Path) -> None:
        for path in paths:
            data = pydicom.dcmread(path)
            if uid == RLELossless:
                data.compress(RLELossless, generate_instance_uid=False)
                data.save_as(path)
                continue
            if uid == ExplicitVRBigEndian:
                data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
            data.file_meta.TransferSyntaxUID = uid
            little, implicit = uid != ExplicitVRBigEndian, uid == ImplicitVRLittleEndian
            pydicom.dcmwrite(path, data, little_endian=little, implicit_vr=implicit, force_encoding=True)

    return _then(change)


def _by_gdcm(compressor: str) -> Callable[[Path], Path]:
    """The series compressed by GDCM: JPEG2000 or JPEG (both without loss)."""

    def change(paths: list[Path], folder: Path) -> None:
        for path in paths:
            plain = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
            image = sitk.Cast(plain, sitk.sitkInt16)
            for key in plain.GetMetaDataKeys():
                image.SetMetaData(key, plain.GetMetaData(key))
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetImageIO("GDCMImageIO")
            writer.UseCompressionOn()
            writer.SetCompressor(compressor)
            writer.SetFileName(str(path))
            writer.Execute(image)
        told = pydicom.dcmread(paths[0], stop_before_pixels=True).file_meta.TransferSyntaxUID
        assert told.is_compressed, told

    return _then(change)


def _second(folder: Path, **settings: Any) -> None:
    """A further series in a subfolder."""
    series(folder / "other", **{"SeriesNumber": 3, **settings})


def _copies_with_new_names(paths: list[Path], folder: Path) -> None:
    for path in paths:
        data = pydicom.dcmread(path)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.save_as(folder / f"again-{path.name}")


def _second_acquisition(shift: float, denser: int = 0) -> Callable[[list[Path], Path], None]:
    """The same positions, moved up by `shift` mm, scanned once more into the same series; denser: HU that contrast adds."""

    def change(paths: list[Path], folder: Path) -> None:
        for path in paths:
            data = pydicom.dcmread(path)
            data.AcquisitionNumber = 1
            data.save_as(path)
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            data.AcquisitionNumber = 2
            data.ImagePositionPatient[2] = f"{float(data.ImagePositionPatient[2]) + shift:.6f}"
            data.PixelData = (np.frombuffer(data.PixelData, "<u2") + np.uint16(denser)).tobytes()
            data.save_as(folder / f"second-{path.name}")

    return change


def _padded(value: int, told: bool, signed: bool) -> Callable[[Path], Path]:
    """Outside the scanner's circle lies a padding value that is no HU; stored without an offset."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    outside = np.hypot(rows - (SIZE[1] - 1) / 2, columns - (SIZE[0] - 1) / 2) > 40.0

    def change(data: Dataset, k: int) -> None:
        stored = np.frombuffer(data.PixelData, "<u2").astype(np.int32).reshape(outside.shape)
        stored = stored - 1024 if signed else stored
        stored = np.where(outside, value, stored)
        data.PixelRepresentation = int(signed)
        data.RescaleIntercept = 0 if signed else -1024
        data.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
        if told:
            data.add_new(0x00280120, "SS" if signed else "US", value)

    return _each(change)


def _signed_read_as_unsigned(data: Dataset, k: int) -> None:
    data.PixelData = (np.frombuffer(data.PixelData, "<u2").astype(np.int32) - 1024).astype("<i2").tobytes()
    data.RescaleIntercept = 0


def _overlay_bits(data: Dataset, k: int) -> None:
    """Twelve bits of picture; a graphic lies in the upper four of some pixels."""
    stored = np.frombuffer(data.PixelData, "<u2").clip(0, 4095).copy()
    stored[::7] |= 0x9000
    data.BitsStored, data.HighBit = 12, 11
    data.PixelData = stored.tobytes()


def _set(**tags: Any) -> Callable[[Dataset, int], None]:
    def change(data: Dataset, k: int) -> None:
        for keyword, value in tags.items():
            setattr(data, keyword, value(k) if callable(value) else value)

    return change


def _raw(tag: int, vr: str, text: str) -> Callable[[list[Path], Path], None]:
    """A value that pydicom itself would not write."""

    def change(paths: list[Path], folder: Path) -> None:
        old = pydicom.config.settings.writing_validation_mode
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        try:
            for path in paths:
                raw = path.read_bytes()
                head = tag.to_bytes(4, "big")
                mark = bytes((head[1], head[0], head[3], head[2])) + vr.encode()
                at = raw.index(mark)
                length = int.from_bytes(raw[at + 6 : at + 8], "little")
                value = text.encode() + b" " * (len(text.encode()) % 2)
                path.write_bytes(raw[: at + 6] + len(value).to_bytes(2, "little") + value + raw[at + 8 + length :])
        finally:
            pydicom.config.settings.writing_validation_mode = old

    return change


def _report(path: Path, target: Path) -> None:
    """A dose report beside or instead of the scan: no picture in it."""
    data = pydicom.dcmread(path)
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"):
        delattr(data, keyword)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    data.Modality, data.SeriesInstanceUID, data.SOPInstanceUID = "SR", generate_uid(), generate_uid()
    data.save_as(target)


def _only_report(paths: list[Path], folder: Path) -> None:
    _report(paths[0], folder / "report.dcm")
    for path in paths:
        path.unlink()


def _coronal_too(paths: list[Path], folder: Path) -> None:
    """Reformats of another orientation under the same series UID."""
    uid = pydicom.dcmread(paths[0], stop_before_pixels=True).SeriesInstanceUID
    axes = (np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0]))
    series(folder / "coronal", np.arange(-60.0, 61.0, 10.0), axes=axes, SeriesInstanceUID=uid)


def _scout_inside(paths: list[Path], folder: Path) -> None:
    data = pydicom.dcmread(paths[0])
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.save_as(folder / "scout.dcm")


def _colour(data: Dataset, k: int) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelData = b"\x40" * (3 * data.Rows * data.Columns)


def _multiframe(paths: list[Path], folder: Path) -> None:
    """All slices in one enhanced CT file."""
    sets = [pydicom.dcmread(path) for path in paths]
    first = sets[0]
    first.PixelData = b"".join(data.PixelData for data in sets)
    first.NumberOfFrames = len(sets)
    first.SOPClassUID = first.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    for path in paths:
        path.unlink()
    first.save_as(folder / "enhanced.dcm")


def _broken(place: int, change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    return _then(lambda paths, folder: paths[place].write_bytes(change(paths[place].read_bytes())))


def _sheared(paths: list[Path], folder: Path) -> None:
    _rewrite(paths, _set_now(ImageOrientationPatient=[1, 0, 0, math.sin(0.35), math.cos(0.35), 0]))


def _set_now(**tags: Any) -> Callable[[Dataset], None]:
    change = _set(**tags)
    return lambda data: change(data, 0)


def _hostile_size(paths: list[Path], folder: Path) -> None:
    _rewrite(paths, _set_now(Rows=65535, Columns=65535))


def _link_to_itself(paths: list[Path], folder: Path) -> None:
    os.symlink(folder, folder / "again", target_is_directory=True)


def _single_file(folder: Path) -> Path:
    return series(folder / "scan")[MIDDLE]


def _dicomdir_only(folder: Path) -> Path:
    (folder / "scan").mkdir()
    (folder / "scan" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(200))
    return folder / "scan"


def _strange_names(folder: Path) -> Path:
    inner = folder / "Schädel  CT №7 (nativ) " / ("sehr lang " * 20).strip()
    series(inner)
    for n, path in enumerate(sorted(inner.iterdir())):
        path.rename(inner / f"Bild {n} für  Ärztin.ima")
    return inner


def _jitter(data: Dataset, k: int) -> None:
    data.ImagePositionPatient[2] = f"{float(data.ImagePositionPatient[2]) + 0.03 * (-1) ** k:.6f}"


def _from_below(paths: list[Path], folder: Path) -> None:
    """File names and instance numbers run against the positions."""
    count = len(paths)
    for k, path in enumerate(paths):
        _rewrite([path], _set_now(InstanceNumber=count - k))
        path.rename(folder / f"image{count - k:04d}")


def _half_resolution(paths: list[Path], folder: Path) -> None:
    """Every third slice of another matrix under the same UID."""
    for path in paths[::3]:
        data = pydicom.dcmread(path)
        pixels = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)[::2, ::2]
        data.Rows, data.Columns = pixels.shape
        data.PixelSpacing = [2 * SPACING[1], 2 * SPACING[0]]
        data.PixelData = pixels.tobytes()
        data.save_as(path)


def _bone_and_soft(paths: list[Path], folder: Path) -> None:
    _second(folder, SeriesDescription="Head bone", ConvolutionKernel="BONE", SliceThickness=1.0)


def _mixed_in_one_folder(paths: list[Path], folder: Path) -> None:
    """Two series of two examinations, their files in one folder under names that do not tell them apart."""
    for n, path in enumerate(
        series(folder.parent / "second", SeriesNumber=9, SeriesDescription="Thorax", hu=lambda p: np.full(p.shape[:-1], -1000.0))
    ):
        shutil.move(path, folder / f"z{n}.dcm")


def _other_slope(data: Dataset, k: int) -> None:
    """The same HU, written with a slope and an intercept of the slice's own."""
    hu = np.frombuffer(data.PixelData, "<u2").astype(np.float64) - 1024
    slope, intercept = 0.5 + 0.01 * k, -1024 - k
    data.RescaleSlope, data.RescaleIntercept = f"{slope:.4f}", intercept
    data.PixelData = np.rint((hu - intercept) / slope).astype("<u2").tobytes()


def _unknown_syntax(paths: list[Path], folder: Path) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))


UNEVEN = np.concatenate((np.arange(-72.5, -20, 7.5), np.arange(-20.0, 20, 4.0), np.arange(20.0, 75, 9.0)))

DICOM: tuple[OddScan, ...] = (
    taken("a plain series", _plain()),
    taken("slices in reverse order, names and numbers against the positions", _then(_from_below)),
    taken("feet first: positions run down", _plain(heights=HEIGHTS[::-1])),
    taken("patient prone: rows and columns turned", _plain(axes=(np.array([-1.0, 0, 0]), np.array([0, -1.0, 0])))),
    taken("gantry tilt of 18 degrees", _plain(tilt=18.0), warned="tilt of"),
    taken("tilt told with the wrong sign", _plain(tilt=-12.0, GantryDetectorTilt=12.0), warned="tilt of"),
    taken("tilt in the positions, none in the header", _plain(axes=tilted_axes(15.0)), warned="tilt of"),
    taken("uneven gaps of 4 to 11 mm", _plain(heights=UNEVEN), warned="Slice gaps run from"),
    taken("positions that jitter by 0.03 mm", _each(_jitter)),
    taken("one slice missing in the middle", _then(lambda paths, folder: paths[MIDDLE].unlink()), warned="Slice gaps run from 5.00 to 10.00"),
    taken("three slices missing", _then(lambda paths, folder: [paths[k].unlink() for k in (8, 9, 20)]), warned="Slice gaps run from 5.00 to 15.00"),
    taken("every file twice, in a subfolder", _then(lambda paths, folder: shutil.copytree(folder, folder / "copy"))),
    taken("every slice twice under new names and UIDs", _then(_copies_with_new_names), warned="twice"),
    OddScan("two acquisitions at the same positions", _then(_second_acquisition(0.0, 40)), refused="two acquisitions"),
    OddScan("two acquisitions 0.6 mm apart", _then(_second_acquisition(0.6, 40)), refused="two acquisitions"),
    taken("bone and soft-tissue series", _then(_bone_and_soft), warned="2 series found"),
    taken("two series mixed in one folder", _then(_mixed_in_one_folder), warned="2 series found"),
    taken("axial and coronal slices in one series", _then(_coronal_too), warned="2 series found"),
    taken("a scout in the series", _then(_scout_inside), warned="2 series found"),
    taken("a dose report beside the series", _then(lambda paths, folder: _report(paths[0], folder / "report.dcm"))),
    taken("slices of another matrix in the series", _then(_half_resolution), warned="2 series found"),
    taken("a link to the folder in the folder", _then(_link_to_itself)),
    taken("umlauts, spaces and very long names", _strange_names),
    OddScan("only a scout", _plain(heights=[0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), refused="no axial head CT series"),
    OddScan("only a dose report", _then(_only_report), refused="DICOM files but no images"),
    OddScan("a picture of the dose page", _each(_colour, heights=[0.0, 5.0, 10.0]), refused="colour pictures"),
    OddScan("MR in DICOM", _plain(Modality="MR"), refused="not CT but MR"),
    OddScan("no modality", _plain(Modality=None), refused="without a modality"),
    OddScan("coronal reformats only", _plain(axes=(np.array([1.0, 0, 0]), np.array([0, 0, -1.0]))), refused="coronal, not axial"),
    OddScan("an enhanced multi-frame file", _then(_multiframe), refused="multi-frame"),
    taken("rescale that changes from slice to slice", _each(_other_slope)),
    OddScan("no rescale", _plain(RescaleIntercept=None, RescaleSlope=None), refused="intercept"),
    OddScan("rescale slope of 0", _plain(RescaleSlope=0), refused="RescaleSlope or RescaleIntercept is 0"),
    OddScan("rescale slope of 2", _plain(RescaleSlope=2), refused="not those of a head CT"),
    OddScan("rescale intercept applied twice", _plain(RescaleIntercept=-2048), refused="not those of a head CT"),
    OddScan("rescale that is a word", _then(_raw(0x00281052, "DS", "lots")), refused="no number"),
    OddScan("signed values declared unsigned", _each(_signed_read_as_unsigned), refused="not those of a head CT"),
    taken("a graphic in the upper bits", _each(_overlay_bits)),
    taken("padding of -2000 around the scan", _padded(-2000, True, True)),
    taken("padding of -3024 that the header does not tell", _padded(-3024, False, True)),
    taken("padding of 63536 in unsigned values", _padded(63536, True, False)),
    taken("padding of 65535 that the header does not tell", _padded(65535, False, False)),
    taken("implicit VR", _syntax(ImplicitVRLittleEndian)),
    taken("big endian", _syntax(ExplicitVRBigEndian)),
    taken("deflated", _syntax(DeflatedExplicitVRLittleEndian)),
    taken("run-length compressed", _syntax(RLELossless)),
    taken("JPEG 2000", _by_gdcm("JPEG2000")),
    taken("JPEG without loss", _by_gdcm("JPEG")),
    OddScan("a transfer syntax that nobody knows", _then(_unknown_syntax), refused="damaged or cut short"),
    OddScan("no PixelSpacing", _plain(PixelSpacing=None), refused="PixelSpacing is missing"),
    OddScan("PixelSpacing of 0", _plain(PixelSpacing=[0, 0]), refused="impossible values"),
    OddScan("PixelSpacing of 300 mm", _plain(PixelSpacing=[300, 300]), refused="spacing"),
    OddScan("PixelSpacing of 0.003 mm", _plain(PixelSpacing=[0.003, 0.003]), refused="spacing"),
    OddScan("PixelSpacing with a decimal comma", _then(_raw(0x00280030, "DS", "3,0\\3,0")), refused="PixelSpacing is missing"),
    OddScan("no ImagePositionPatient", _plain(ImagePositionPatient=None), refused="ImagePositionPatient is missing"),
    OddScan("no ImageOrientationPatient", _plain(ImageOrientationPatient=None), refused="ImageOrientationPatient is missing"),
    OddScan("the same position in all slices", _each(_set(ImagePositionPatient=[0, 0, 0])), refused="same position"),
    OddScan("an orientation of zeros", _each(_set(ImageOrientationPatient=[0] * 6)), refused="impossible values"),
    OddScan("rows and columns that are not perpendicular", _then(_sheared), refused="perpendicular"),
    OddScan("one slice", _plain(heights=[0.0]), refused="only 1 slice"),
    OddScan("two slices", _plain(heights=[0.0, 5.0]), refused="only 2 slices"),
    OddScan("a slice cut short in its pixels", _broken(MIDDLE, lambda raw: raw[:-1500]), refused="cut short"),
    OddScan("a slice cut short in its header", _broken(MIDDLE, lambda raw: raw[:700]), refused="cut short"),
    OddScan("a slice of zero bytes", _broken(MIDDLE, lambda raw: b""), refused="empty"),
    OddScan("the last slice of zero bytes", _broken(-1, lambda raw: b""), refused="empty"),
    OddScan("a slice that is a text", _broken(3, lambda raw: b"404 not found\n"), refused="empty, damaged or cut short"),
    taken("a text beside the slices", _then(lambda paths, folder: (folder / "README.txt").write_text("nothing"))),
    OddScan("a matrix of 65535 by 65535 that is not there", _then(_hostile_size), refused="too large for the memory"),
    OddScan("a single DICOM file", _single_file, refused="give the folder"),
    OddScan("a folder with a DICOMDIR only", _dicomdir_only, refused="no DICOM files"),
)  # fmt: skip
