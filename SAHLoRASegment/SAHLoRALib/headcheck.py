"""Is this a head CT in HU? Asked of every scan before it reaches the network.

The questions are kept wide: thick slices, partial heads, children, craniotomies, large haematomas and noise must all pass. What has no air, no bone,
no soft tissue, or no slice with brain in a ring of skull, does not; but a brain alone, whose skull was taken away, does.
"""

from __future__ import annotations

import numpy as np

from .errors import ScanError
from .skull import bone_hull, convex_hull, ring_inside, sampled
from .stripped import is_brain_alone
from .volume import CTVolume

#: Outer size of a skull's outline, mm: from a newborn's to more than any adult's (a window for lost or wrong spacing, too).
_SKULL_MM = (60.0, 260.0)
#: Pixels from those of a bone reconstruction of the inner ear to those of a coarse preview; slices may lie as far apart as the latter.
_PIXEL_MM = (0.05, 30.0)
#: mm below the top of the skull in which its inside is judged: there is no face in it. Less than this share of what its bone encloses is too little.
_UPPER_MM, _LEAST_FOUND = 60.0, 0.5
#: Median HU of all that lies within the skull. Measured: 32 in a real scan, 27 to 41 in 30 synthetic ones with bleeds of up to 110 mL and oedema.
_BRAIN_HU = (20.0, 45.0)
#: Less is a slab, in which no bleed could be measured.
_LEAST_HEIGHT_MM = 5.0
#: Half a degree. A gantry tilt shears slices against each other, never a slice in itself.
_SKEW = 0.0087
#: Enamel and sharp kernels stay below; scanners of 12 bits end at 3071. What is above 16 bits is padding.
_DENSEST_BONE_HU, _PADDING_HU, _FEWEST_METAL_VOXELS = 3000.0, 32767.0, 8

_STRIPPED = (
    "The skull was taken away from this scan before: what is left counts as its inside, blood at its edge may be missed, and a rest of bone there "
    "may look like blood."
)


def check_head_ct(ct: CTVolume) -> tuple[str, ...]:
    """Warnings about geometry, metal and a skull that is missing. Raises ScanError, one sentence, for what is not a head CT in HU."""
    where = f"{ct.source}: " if ct.source else ""
    if ct.hu.size == 0:
        raise ScanError(f"{where}the scan is empty.")
    if len(ct.hu) < 3:
        raise ScanError(f"{where}the scan has only {len(ct.hu)} slice{'s' if len(ct.hu) > 1 else ''}; a volume is needed.")
    low, high = float(ct.hu.min()), float(ct.hu.max())  # both are NaN where one voxel is
    if not np.isfinite(low + high):
        raise ScanError(f"{where}the scan holds NaN or infinite values; write it again without them.")
    if low == high:
        raise ScanError(f"{where}the scan is empty: every voxel is {low:g}.")
    if abs(float(ct.row_direction @ ct.column_direction)) > _SKEW:
        raise ScanError(f"{where}rows and columns are not perpendicular; the geometry in the header is wrong, convert the scan again from DICOM.")
    if ct.gaps_mm.min() <= 0:
        raise ScanError(f"{where}the slices do not rise from one to the next; the geometry in the header is wrong.")
    told = [*ct.spacing, float(np.median(ct.gaps_mm))]
    if min(told[:2]) < _PIXEL_MM[0] or max(told) > _PIXEL_MM[1] or np.ptp(ct.positions @ ct.normal) < _LEAST_HEIGHT_MM:
        sizes = " × ".join(f"{n:.3g}" for n in told)
        raise ScanError(f"{where}voxels of {sizes} mm (rows, columns, slices) cannot be a head's; the pixel spacing in the header is wrong.")
    if is_brain_alone(ct):
        return (*geometry_warnings(ct), *_metal_warning(ct, high), _STRIPPED)
    _, pixels, spacing = sampled(ct, ct.hu)
    if (why := _not_hu(pixels, low, high)) is not None:
        raise ScanError(f"{where}the values are not those of a head CT in Hounsfield units (they run from {low:.0f} to {high:.0f}): {why}.")
    if (why := _not_a_head(pixels, spacing)) is not None:
        raise ScanError(f"{where}this does not look like a head CT: {why}.")
    return (*geometry_warnings(ct), *_metal_warning(ct, high))


def inside_warnings(ct: CTVolume, inside: np.ndarray) -> tuple[str, ...]:
    """What the upper part of the head says of the inside of the skull that was found, bool (slices, rows, columns), and of the HU in it.

    A brain that was lost leaves far less than its bone encloses: a tenth at most where it was lost, in real and synthetic scans, and else 0.95.
    """
    chosen, pixels, spacing = sampled(ct, ct.hu)
    share = sampled(ct, inside)[1]
    bone = pixels > 200.0
    held = np.flatnonzero((bone.sum(axis=(1, 2)) * spacing[0] * spacing[1] > 200.0) | (share > 0.5).any(axis=(1, 2)))
    if not len(held):
        return ()
    upper = held[ct.heights_mm[chosen[held]] >= ct.heights_mm[chosen[held[-1]]] - _UPPER_MM]
    told = []
    enclosed = found = 0
    for k in upper:
        soft = bone_hull(bone[k], spacing) & (pixels[k] > -20.0) & (pixels[k] < 130.0)
        enclosed += int(soft.sum())
        found += int((soft & (share[k] > 0.5)).sum())
    if found < _LEAST_FOUND * enclosed:
        told.append(
            f"Only {found / enclosed:.0%} of what the bone of the upper skull encloses was found to be its inside, and no blood is looked for "
            "elsewhere: look at the mask with care."
        )
    brain = pixels[upper][share[upper] > 0.99]
    level = float(np.median(brain)) if len(brain) else _BRAIN_HU[0]
    if not _BRAIN_HU[0] <= level <= _BRAIN_HU[1]:
        told.append(
            f"Brain lies at {level:.0f} HU, where 25 to 40 is usual: the rescale intercept of the scan may be wrong, and no volume in mL is to be "
            "trusted."
        )
    return tuple(told)


def _metal_warning(ct: CTVolume, high: float) -> tuple[str, ...]:
    """Clips, coils, fillings: more than a few voxels denser than any bone."""
    dense = ct.hu[(ct.hu > _DENSEST_BONE_HU) & (ct.hu < _PADDING_HU)] if high > _DENSEST_BONE_HU else ()
    if len(dense) < _FEWEST_METAL_VOXELS:
        return ()
    return (f"There is metal in the scan (values up to {float(np.max(dense)):.0f} HU): streaks from it can look like blood.",)


def _not_hu(pixels: np.ndarray, low: float, high: float) -> str | None:
    """Why values cannot be HU; None where they can. Judged on block means, so noise does not count."""
    empty = pixels == 0.0
    air = float((pixels < -300.0).mean())
    # A skull that was clipped at 1024 lies there too, but with ten times as much brain near 30 beside it, and nothing above. Measured on four
    # scans, real and synthetic: 0.55 to 0.65 of what is above 300, and 0.7 and more times the soft values, where the intercept is lost; else 0.3
    # and 0.11 at most.
    near_1040 = int(((pixels > 1000.0) & (pixels < 1100.0)).sum())
    if high > 1200.0 and near_1040 > 0.4 * (pixels > 300.0).sum() and near_1040 > 0.5 * ((pixels > 24.0) & (pixels < 100.0)).sum():
        return "soft tissue lies near 1040, so the rescale intercept of -1024 was lost; convert the DICOM files again"
    if air < 0.01 and empty.mean() < 0.1:
        return "there is no air near -1000; give the CT itself, not a windowed picture, MR or label map"
    if high < 300.0:
        return "there is no bone above 300; give the CT itself, not a windowed or skull-stripped one"
    tissue = (pixels > -200.0) & ~empty
    count = max(1, int(tissue.sum()))
    bone = float((pixels[tissue] > 300.0).sum()) / count
    soft = float(((pixels[tissue] > -10.0) & (pixels[tissue] < 100.0)).sum()) / count
    if bone > 0.65 or soft < 0.12:
        return f"only {soft:.0%} of the tissue has the values of brain and blood (0 to 100)"
    if bone < 0.002:
        return "there is hardly any bone above 300"
    return None


def _not_a_head(pixels: np.ndarray, spacing: tuple[float, float]) -> str | None:
    """Why no slice shows brain within a skull; None where one does.

    A ring of bone, gaps of 2 cm closed, must hold at least 70 % soft tissue without fat (so neither chest nor pelvis passes) and 15 cm² of it.
    Where a craniotomy opens every ring, the convex hull of the bone serves instead, and must hold bone in a head's proportion.
    """
    pixel_cm2 = spacing[0] * spacing[1] / 100.0
    odd_size = 0.0
    for hu in pixels:
        bone = hu > 200.0
        if bone.sum() * pixel_cm2 < 2.0:
            continue
        for outline, least_bone in ((ring_inside(bone, 10.0, spacing), 0.0), (convex_hull(bone), 0.05)):
            inside = outline & ~bone
            soft = inside & (hu > -20.0) & (hu < 130.0)
            if not inside.any() or soft.sum() < 0.7 * inside.sum() or bone[outline].mean() < least_bone:
                continue
            rows, columns = np.flatnonzero(outline.any(axis=1)), np.flatnonzero(outline.any(axis=0))
            size = max((rows[-1] - rows[0] + 1) * spacing[0], (columns[-1] - columns[0] + 1) * spacing[1])
            if inside.sum() * pixel_cm2 >= 15.0 and _SKULL_MM[0] <= size <= _SKULL_MM[1]:
                return None
            odd_size = max(odd_size, float(size))
    if odd_size:
        return f"the ring of bone is {odd_size / 10:.0f} cm across; it is another part of the body, or the pixel spacing is wrong"
    return "no slice shows brain within a skull of 6 to 26 cm; it is another part of the body, or the pixel spacing is wrong"


def geometry_warnings(ct: CTVolume) -> tuple[str, ...]:
    """Tilt, uneven gaps, thick slices and slices that are no axial ones, in words."""
    told: list[str] = []
    gaps = ct.gaps_mm
    if abs(ct.tilt_degrees) >= 0.5:
        told.append(f"Gantry tilt of {ct.tilt_degrees:+.1f}°: slices are used as they lie, volumes are computed perpendicular to them.")
    if ct.header_tilt is not None and abs(abs(ct.header_tilt) - abs(ct.tilt_degrees)) >= 1.0:
        told.append(
            f"The header states a gantry tilt of {ct.header_tilt:+.1f}°, but the slice positions show {abs(ct.tilt_degrees):.1f}°: "
            "the positions are used."
        )
    if ct.uneven:
        told.append(
            f"Slice gaps run from {gaps.min():.2f} to {gaps.max():.2f} mm: no single step fits all slices; "
            "volumes use the true positions, a mask file can only hold their mean step."
        )
    if float(np.median(gaps)) > 6.0:
        told.append(f"Slices lie {np.median(gaps):.1f} mm apart: small bleeds between them are not seen.")
    if ct.missing.any():
        below = int(np.argmax(ct.missing))
        told.append(
            f"Between slices {below + 1} and {below + 2} lie {gaps[below]:.0f} mm: slices are missing there, or one does not belong to the scan; "
            "what lies between them is not counted."
        )
    if ct.geometry_lost:
        told.append(
            "Voxels are exactly 1 mm in all directions and begin at 0, as where a program has lost the geometry; if so, no volume in mL is right: "
            "convert the scan again from DICOM."
        )
    if max(ct.spacing) > 2.5:
        pixels = f"{ct.spacing[0]:.1f} by {ct.spacing[1]:.1f} mm"
        told.append(f"Pixels of the axial slices are {pixels}: this is no axial reconstruction, results will be poor.")
    return tuple(told)
