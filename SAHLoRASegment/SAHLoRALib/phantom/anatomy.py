"""From a label map to a `Head`: where bone, brain, cisterns, dura and sinuses are, and how far from them every voxel lies.

Label maps carry FreeSurfer's numbers, and outside the brain 24 (CSF with sulci and cisterns), 515 compact skull, 516 marrow, 511 scalp, 507 other
soft tissue, 502 arteries (carotid, vertebral), 506 eyes, 508 optic nerve, 512 spinal cord, 514 dural sinuses; 0 is air
(https://surfer.nmr.mgh.harvard.edu, BBillot/SynthSeg; the names of 502 and 512 by where they lie in the maps). Without a folder of such maps,
`icbm_head` builds one from the ICBM 2009a tissue maps that nilearn carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..errors import ScanError
from .fields import distance_to

LEFT = (2, 3, 4, 5, 10, 11, 12, 13, 17, 18, 26, 28, 30)
RIGHT = (41, 42, 43, 44, 49, 50, 51, 52, 53, 54, 58, 60, 62)
CEREBELLUM = (7, 8, 46, 47)
CORTEX = (3, 42, 8, 47)
WHITE = (2, 41, 7, 46)
VENTRICLES = (4, 5, 14, 15, 43, 44, 72)
LATERAL_VENTRICLES = (4, 5, 43, 44)
THALAMI = (10, 49)
BASAL_GANGLIA = (11, 12, 13, 50, 51, 52)
BRAIN_STEM = 16
CSF = 24
COMPACT, MARROW = 515, 516
ARTERY, CORD, SINUS = 502, 512, 514
EYES = 506


@dataclass(frozen=True)
class Head:
    """One anatomy on a 1 mm grid, axes (z up, y backwards, x to the patient's left).

    labels: int16. inside: within the dura (brain, CSF, ventricles, sinuses). side: float32, distance to the right hemisphere minus distance to
    the left one, mm: positive on the left, 0 on the falx. depth: mm from the inner table. brain_distance: mm to brain tissue.
    ventricle_distance: mm to a ventricle. tentorium: mm between the two distances to cerebrum and cerebellum (0 on the tentorium).
    falx, tent: bool sheets. willis: (3,) voxel of the basal cisterns.
    """

    name: str
    labels: np.ndarray
    inside: np.ndarray
    side: np.ndarray
    depth: np.ndarray
    brain_distance: np.ndarray
    ventricle_distance: np.ndarray
    cerebellum_distance: np.ndarray
    falx: np.ndarray
    tent: np.ndarray
    willis: np.ndarray

    def where(self, *labels: int) -> np.ndarray:
        return np.isin(self.labels, labels)


def heads_in(folder: Path | str) -> list[Path]:
    """The label maps of a folder, by name. Raises ScanError where there is none."""
    folder = Path(folder)
    found = sorted(p for p in folder.glob("*.nii*") if not p.name.startswith(".")) if folder.is_dir() else []
    if not found:
        raise ScanError(f"{folder} holds no label maps (*.nii.gz with FreeSurfer labels); name another folder or leave the heads out.")
    return found


def load_head(path: Path | str) -> Head:
    """A label map file as a Head (some seconds). Raises ScanError for a file that is not one."""
    path = Path(path)
    try:
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    except RuntimeError as error:
        raise ScanError(f"{path} cannot be read as a label map; it may be damaged.") from error
    if max(abs(s - 1.0) for s in image.GetSpacing()) > 0.05:
        size = [round(n * s) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
        image = sitk.Resample(image, size, sitk.Transform(), sitk.sitkNearestNeighbor, image.GetOrigin(), (1.0,) * 3, image.GetDirection())
    labels = sitk.GetArrayFromImage(image)
    if not np.isin((2, 41, CSF, COMPACT), labels).all():
        raise ScanError(f"{path} is not a whole-head label map: it must hold FreeSurfer's labels 2 and 41 and the labels 24 (CSF) and 515 (skull).")
    return head_from_labels(labels.astype(np.int16), path.name.split(".")[0])


def head_from_labels(labels: np.ndarray, name: str) -> Head:
    """A Head from labels (z, y, x) in LPS order, 1 mm. Cut to the brain with the face down to 45 mm below it."""
    labels = _without_islands(labels)
    cerebrum = np.nonzero(np.isin(labels, (2, 41, *CEREBELLUM)))[0]
    used = np.nonzero(labels > 0)
    low = max(0, int(cerebrum.min()) - 45)
    y0, y1, x0, x1 = used[1].min(), used[1].max() + 1, used[2].min(), used[2].max() + 1
    top = used[0].max() + 1
    labels = np.pad(labels[low:top, y0:y1, x0:x1], 6)
    labels[:6] = labels[6]  # the neck goes on

    bone = np.isin(labels, (COMPACT, MARROW))
    tissue = ((labels > 0) & (labels < 500)) | np.isin(labels, (CORD, SINUS))
    ball = ndimage.generate_binary_structure(3, 1)
    inside = ndimage.binary_closing(tissue, ball, iterations=3) & ~bone & ~np.isin(labels, (511, 507, EYES, 508, 509))
    components, count = ndimage.label(inside)
    inside = components == 1 + int(np.argmax(np.bincount(components.ravel())[1:])) if count > 1 else inside
    labels = np.where(inside & ((labels == 0) | (labels >= 500)) & ~np.isin(labels, (ARTERY, CORD, SINUS)), CSF, labels).astype(np.int16)
    labels[(labels == CSF) & ~inside & (distance_to(bone, 3.0) > 2)] = 507  # spinal and orbital leftovers

    brain = inside & ~np.isin(labels, (CSF, ARTERY, SINUS, *VENTRICLES))
    left, right = distance_to(np.isin(labels, LEFT)), distance_to(np.isin(labels, RIGHT))
    cerebellum = distance_to(np.isin(labels, CEREBELLUM))
    cerebrum_distance = np.minimum(left, right)
    depth = distance_to(~inside)
    stem = distance_to(labels == BRAIN_STEM)
    gap = np.isin(labels, (CSF, SINUS, *CORTEX)) & inside
    falx = gap & (np.abs(left - right) <= 1.0) & (cerebrum_distance < 12) & (cerebellum > 4) & (stem > 12)
    tent = gap & (np.abs(cerebrum_distance - cerebellum) <= 1.0) & (cerebellum < 9) & (stem > 6)
    deep = np.isin(labels, (28, 60, *THALAMI))
    z, y, x = (c.astype(float) for c in np.nonzero(deep))
    willis = np.array([z.min() - 1.0, y.min() - 3.0, x.mean()])
    return Head(
        name, labels, inside, right - left, depth, distance_to(brain), distance_to(np.isin(labels, VENTRICLES)), cerebellum, falx, tent, willis
    )


def icbm_head() -> Head:
    """A head from the ICBM 2009a symmetric tissue maps in nilearn, with skull, scalp, sinuses and a crude face added. No download.

    Raises ScanError where nilearn is not installed.
    """
    try:
        import nilearn.datasets as datasets
    except ImportError as error:
        raise ScanError("The built-in anatomy needs the package nilearn: install it (pip install nilearn) or name a folder of label maps.") from error
    folder = Path(datasets.__file__).parent / "data"
    grey, white = (_read_tissue(folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz") for tissue in ("gm", "wm"))
    return head_from_labels(_labels_from_tissues(grey, white), "icbm152")


def _read_tissue(path: Path) -> np.ndarray:
    image = sitk.DICOMOrient(sitk.ReadImage(str(path), sitk.sitkFloat32), "LPS")
    size = [round(n * s) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    image = sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), (1.0,) * 3, image.GetDirection())
    values = sitk.GetArrayFromImage(image)
    return np.pad(values / values.max(), ((70, 25), (25, 25), (25, 25)))


def _labels_from_tissues(grey: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Labels of a head around tissue probabilities (z, y, x): the parts that the tissue maps lack are built from distances."""
    brain = grey + white > 0.5
    grown = ndimage.binary_closing(brain, iterations=8) | brain
    filled = ndimage.binary_fill_holes(grown)
    distance, depth = distance_to(filled, 20.0), distance_to(~filled)
    labels = np.zeros(brain.shape, np.int16)
    zs, ys, xs = np.nonzero(brain)
    bottom, middle, centre = zs.min(), xs.mean(), ys.mean()
    z, y, x = np.ogrid[: brain.shape[0], : brain.shape[1], : brain.shape[2]]
    # an elliptic neck and face below the brain, so that low slices are not empty
    face = (((y - centre + 12) / 88.0) ** 2 + ((x - middle) / 66.0) ** 2 < 1) & (z < bottom + 50)
    neck = (((y - centre - 15) / 62.0) ** 2 + ((x - middle) / 58.0) ** 2 < 1) & (z < bottom + 10)
    labels[(distance <= 17) | face | neck] = 511
    labels[(distance <= 14) | (distance_to(~(face | neck | (distance <= 17)), 4.0) > 3)] = 507
    labels[(distance > 2) & (distance <= 10)] = COMPACT
    labels[(distance > 4.5) & (distance <= 7)] = MARROW
    spine = (((y - centre - 20) / 13.0) ** 2 + ((x - middle) / 13.0) ** 2 < 1) & (z < bottom + 6)
    labels[spine & (distance > 1)] = CSF
    labels[distance <= 2] = CSF
    # inside the closed hull what is neither grey nor white is CSF; far from the surface it is ventricle
    fluid = filled & ~brain
    labels[fluid] = CSF
    deep = fluid & (depth > 28) & (z > bottom + 45)
    right = x < middle
    labels[deep & right], labels[deep & ~right] = 43, 4
    below = (z < bottom + 48) & (y > centre + 8 - 0.25 * (z - bottom)) & (z < bottom + 30 + 0.35 * (y - centre))
    stem = (np.abs(x - middle) < 15) & (np.abs(y - centre - 12) < 15) & (z < bottom + 48)
    is_white, is_grey = brain & (white >= grey), brain & (white < grey)
    for part, left, right_label in ((is_white, 2, 41), (is_grey, 3, 42)):
        labels[part & ~right] = left
        labels[part & right] = right_label
    for part, left, right_label in ((is_white, 7, 46), (is_grey, 8, 47)):
        labels[part & below & ~right] = left
        labels[part & below & right] = right_label
    labels[brain & stem] = BRAIN_STEM
    core = is_grey & (depth > 30) & (z > bottom + 50) & (np.abs(x - middle) < 32)
    back = y > centre - 2
    for part, left, right_label in ((core & back, 10, 49), (core & ~back, 12, 51)):
        labels[part & ~right] = left
        labels[part & right] = right_label
    return labels


def _without_islands(labels: np.ndarray) -> np.ndarray:
    """Labels of the largest connected part only (some maps carry stray voxels in the air)."""
    components, count = ndimage.label(labels > 0)
    if count > 1:
        labels = np.where(components == 1 + int(np.argmax(np.bincount(components.ravel())[1:])), labels, 0)
    return labels
