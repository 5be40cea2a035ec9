"""DICOM folders: which series there are, and which one is the head CT (METHODS.md §3)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .dicomslices import Header, damaged_ct, heights, is_dicom, read_header, read_slices, unsuited_because
from .errors import ScanError
from .seriesnames import names_agent, says_enhanced, says_native
from .volume import CTVolume

__all__ = ["SeriesInfo", "choose_series", "is_dicom", "list_series", "read_series"]

#: Words in a description or image type that are no diagnostic head series: refused unless the user names the series.
_REFUSED = ("localizer", "scout", "topogram", "scanogram", "surview", "dose", "bolus", "monitoring")
#: Refused too, but for a head that was taken together with the neck.
_SPINE = ("spine", "cervical", "wirbel", "hws")
#: Words that make a series a second choice, and the points that they cost.
_PENALTIES = {
    **dict.fromkeys(("bone", "knochen", "face", "facial", "lung", "thorax", "chest", "perfusion", "ctp", "mip", "minip", "vrt"), 60.0),
    # maps and mixtures that are computed from two scans or two energies, and what other programs found in a scan
    **dict.fromkeys(("subtract", "iodine", "vnc", "virtual", "rho", "zeff", "z-eff", "effective z", "mono", "kev", "overlay", "map"), 60.0),
    **dict.fromkeys(("rapid", "result", "summary", "aspects"), 60.0),
    **dict.fromkeys(("sinus", "orbit", "neck", "temporal bone", "petrous"), 50.0),
    **dict.fromkeys(("sharp", "angio", "cta", "ctv"), 40.0),
    **dict.fromkeys(("mpr", "reformat", "3d"), 30.0),
    "secondary": 20.0,
    "derived": 10.0,
}
#: A scan with contrast agent, whose words are `seriesnames`'; an examination of head and neck; the same slices again and again.
_ENHANCED_COSTS, _SPINE_COSTS, _DYNAMIC_COSTS = 40.0, 60.0, 60.0
_WITHOUT = r"(?<!non )(?<!non-)(?<!no )(?<!without )(?<!w/o )(?<!ohne )"
_LOW_DOSE = re.compile(r"\b(?:ultra ?)?(?:low|reduced)[ -]?dose")
_HINTS = ("brain", "head", "soft", "std", "stnd", "standard", "routine", "cerebr", "cran", "hirn", "kopf", "schaedel", "schädel", "nativ", "plain")
#: Sharp reconstruction kernels: GE's names, Siemens' B, H, J, Hr … of 50 and more, Canon's FC30s, FC50s and FC80s, Philips' D, E, L, YB to YE.
_SHARP_KERNEL = re.compile(r"bone|edge|lung|sharp|detail|^[bhj][a-z]?[5-9]\d|^fc(3\d|5\d|8\d)|^(d|e|l|y[b-e])$", re.IGNORECASE)

#: A head is some 150 mm high; between two parts of one lies at most a thick slice and a gap.
_WHOLE_HEAD_MM, _APART_MM = 130.0, 20.0

_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class SeriesInfo:
    """One series (of one orientation, matrix and pixel size) in a DICOM folder.

    thickness: mm as the header states, nan where it does not. orientation: axial, coronal, sagittal or unknown. score: higher is a better head CT.
    usable: may be chosen without being named. reason: why it scores so, or why it is refused, in words. damaged: its files that cannot be read.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    slices: int
    thickness: float
    orientation: str
    image_type: str
    kernel: str
    score: float
    usable: bool
    reason: str
    enhanced: bool = False
    headers: tuple[Header, ...] = field(repr=False, default=())
    damaged: tuple[Path, ...] = field(repr=False, default=())

    @property
    def title(self) -> str:
        """How messages name the series."""
        name = f"series {self.number}" if self.number is not None else f"series …{self.uid[-8:]}"
        return f"{name} “{self.description}”" if self.description else name


def list_series(folder: Path | str) -> list[SeriesInfo]:
    """All image series in a folder and its subfolders, the best head CT first. Raises ScanError where there is no DICOM image at all."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ScanError(f"{folder} is not a folder.")
    there = [p for p in sorted(folder.rglob("*")) if not p.name.startswith(".") and p.name.upper() != "DICOMDIR" and p.is_file()]
    files = [p for p in there if is_dicom(p)]
    if not files:
        raise ScanError(f"{folder} holds no DICOM files; give the folder of a head CT, or a .nii.gz or .nrrd file itself.")
    groups: list[list[Header]] = []
    damaged: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        header = read_header(path)
        if header is not None:
            group = next((g for g in groups if header.stacks_with(g[0])), None)
            if group is None:
                groups.append([header])
            else:
                group.append(header)
        elif (uid := damaged_ct(path)) is not None:
            damaged[uid].append(path)
    if not groups:
        broken = sum(map(len, damaged.values()))
        why = f"only CT files that are damaged or cut short ({broken})" if broken else "DICOM files but no images"
        raise ScanError(f"{folder} holds {why}; copy the scan again.")
    lost = _lost_files(there, files)
    found = []
    for headers in groups:
        folders = {h.path.parent for h in headers}
        own = damaged.get(headers[0].text("uid"), []) + damaged.get("", []) + [p for p in lost if p.parent in folders]
        found.append(_describe(headers, tuple(own)))
    return sorted(found, key=lambda s: (-s.usable, -s.score, -s.slices, s.number if s.number is not None else 10**9, s.uid))


def choose_series(folder: Path | str, wanted: str | None = None) -> tuple[SeriesInfo, tuple[str, ...]]:
    """The series to segment, and the warnings that tell what was chosen and why.

    wanted: series number, description (or an unmistakable part of it) or UID. Raises ScanError where nothing fits.
    """
    found = list_series(folder)
    if wanted is not None:
        chosen = _named(found, str(wanted).strip(), folder)
        return chosen, (*_enhanced_warning(chosen), *_rest_of(chosen, found))
    best = found[0]
    if not best.usable:
        reasons = "; ".join(f"{s.title}: {s.reason}" for s in found[:4])
        raise ScanError(f"{folder} holds no axial head CT series that can be used ({reasons}).")
    usable = [s for s in found if s.usable]
    patients, examinations = len(_different(usable, "patient")), len(_different(usable, "study"))
    if patients > 1 and examinations > 1:
        raise ScanError(f"{folder} holds scans of {patients} patients; give each a folder of its own, or name a series.")
    told: list[str] = []
    if examinations > 1:
        told.append(f"{folder} holds {examinations} examinations, and one series of one of them is segmented; give each a folder of its own.")
    elif patients > 1:
        told.append(f"The headers name {patients} patients in one examination, and one series is segmented; give each patient a folder of its own.")
    if len(found) > 1:
        likely = {s.uid: "; by its header as likely: name it if it is the one" for s in usable if s.score == best.score}
        others = "; ".join(f"{s.title} ({s.slices} slices: {s.reason}{likely.get(s.uid, '')})" for s in found[1:5])
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        told.append(f"{len(found)} series found, {best.title} chosen ({best.slices} slices: {best.reason}); not {others}{more}.")
    told += [*_enhanced_warning(best), *_rest_of(best, found)]
    if best.score < 0:
        told.append(f"{best.title} is not a typical soft-tissue head series ({best.reason}), but there is no better one: look closely at the result.")
    return best, tuple(told)


def read_series(series: SeriesInfo, source: str = "", warnings: tuple[str, ...] = ()) -> CTVolume:
    """Read a series in HU; see `dicomslices.read_slices`. Raises ScanError, also where some of its files are damaged."""
    if series.damaged:
        names = ", ".join(p.name for p in series.damaged[:3])
        raise ScanError(
            f"{source}: {len(series.damaged)} DICOM file(s) of {series.title} are empty, damaged or cut short ({names}); copy the scan again."
        )
    ct = read_slices(series.headers, source, series.title)
    return replace(ct, warnings=(*warnings, *ct.warnings))


def _different(found: list[SeriesInfo], name: str) -> set[str]:
    """The values that a header field has in these series, where it has one."""
    return {text for series in found for header in series.headers if (text := header.text(name))}


def _enhanced_warning(series: SeriesInfo) -> tuple[str, ...]:
    if not series.enhanced:
        return ()
    return (
        f"{series.title} was taken with contrast agent as its header says: vessels and what takes it up look like blood, mL are not to be trusted.",
    )


def _rest_of(chosen: SeriesInfo, found: list[SeriesInfo]) -> tuple[str, ...]:
    """A warning where the head goes on above or below in other slices, so that a part of it is left out: slices of the series that have other pixels
    or another orientation, or a series of the same kind (a head in two parts, thin slices at the base and thick ones above).
    """
    normal = chosen.headers[0].normal()
    if normal is None:
        return ()
    own = heights(chosen.headers, normal)
    if not own:
        return ()
    for other in found:
        theirs = heights(other.headers, normal)
        if other is chosen or other.orientation != chosen.orientation or len(theirs) < 3:
            continue
        shared = min(max(own), max(theirs)) - max(min(own), min(theirs))
        if shared >= 0.2 * (max(theirs) - min(theirs)):
            continue
        if other.uid == chosen.uid:
            return (
                f"{chosen.title} goes on with {len(theirs)} slices of another pixel size, matrix or orientation: only the {len(own)} slices of one "
                "kind are segmented, and what the others show is not counted.",
            )
        if _of_one_head(chosen, other) and shared > -_APART_MM:
            side = "above" if max(theirs) > max(own) else "below"
            return (
                f"{chosen.title} seems to be one part of a head whose other part is {other.title} ({len(theirs)} slices {side} it): only the one is "
                "segmented, and what the other shows is not counted; segment it by its name too.",
            )
    return ()


def _of_one_head(chosen: SeriesInfo, other: SeriesInfo) -> bool:
    """Whether two series may be two parts of one plain scan: neither is more than the half of a head, and they were taken and computed alike."""
    alike = all(chosen.headers[0].text(name) == other.headers[0].text(name) for name in ("study", "patient", "kernel"))
    spans = [_span(list(series.headers)) for series in (chosen, other)]
    fit = other.usable and min(chosen.score, other.score) >= 0 and chosen.enhanced == other.enhanced
    return alike and fit and max(spans) < _WHOLE_HEAD_MM


def _lost_files(there: list[Path], files: list[Path]) -> list[Path]:
    """What should have been a slice: empty files that are named like the DICOM files, and files called .dcm that are something else."""
    endings = {p.suffix.lower() for p in files}
    numbered = any(ending in ("", *_DICOM_ENDINGS) or ending[1:].isdecimal() for ending in endings)
    known = set(files)
    return [
        p
        for p in there
        if p not in known
        and (p.suffix.lower() in _DICOM_ENDINGS or (p.stat().st_size == 0 and numbered and (p.suffix.lower() in endings or p.suffix[1:].isdecimal())))
    ]


def _named(found: list[SeriesInfo], wanted: str, folder: Path | str) -> SeriesInfo:
    text = wanted.lower()
    tests: tuple[Callable[[SeriesInfo], bool], ...] = (
        lambda s: s.uid == wanted,
        lambda s: s.number is not None and str(s.number) == wanted,
        lambda s: s.description.lower() == text,
        lambda s: bool(text) and text in s.description.lower(),
    )
    for test in tests:
        fits = [s for s in found if test(s)]
        if len({s.uid for s in fits}) > 1:
            names = ", ".join(f"{s.title} (UID {s.uid})" for s in fits)
            raise ScanError(f"{folder}: {wanted!r} fits {len(fits)} series: {names}; name one by its UID.")
        if fits:
            return fits[0]
    raise ScanError(f"{folder} has no series {wanted!r}; it holds {', '.join(s.title for s in found)}.")


def _describe(headers: list[Header], damaged: tuple[Path, ...]) -> SeriesInfo:
    """Score one series: axial, at least 20 slices, 2 mm and thicker, no bone, spine, bolus or face series."""
    # A slice that lies in two subfolders counts once; two slices with one number, of a bad anonymiser, stay two.
    headers = list({(h.text("instance") or str(h.path), h.text("position")): h for h in headers}.values())
    first = headers[0]
    name = first.text("description") or first.text("protocol")
    words = name.lower().replace("_", " ").replace("\\", " ")
    text = _LOW_DOSE.sub(" ", f"{words} {first.text('image_type').lower()}".replace("\\", " "))
    thickness = (first.numbers("thickness", 1) or (float("nan"),))[0]
    good: list[str] = []
    bad: list[str] = []
    score = 0.0
    if len(headers) >= 20:
        score += 20
    else:
        bad.append("fewer than 20 slices")
    if thickness >= 2:
        score += 10
        good.append(f"{thickness:g} mm thick")
    elif thickness > 0:
        bad.append(f"only {thickness:g} mm thick")
    if any(word in f"{text} {first.text('protocol').lower()}" for word in _HINTS) or says_native(words):
        score += 15
    for word in _said(_PENALTIES, text):
        score -= _PENALTIES[word]
        bad.append(f"“{word}”")
    enhanced = says_enhanced(words)
    if not enhanced and names_agent(first.text("agent")) and not says_native(words):
        enhanced = "contrast agent"
    if enhanced:
        score -= _ENHANCED_COSTS
        bad.append(f"“{enhanced}”")
    if spine := _said(_SPINE, text):
        score -= _SPINE_COSTS
        bad.append(f"“{spine[0]}”")
    places = len({h.text("position") for h in headers})
    if len(headers) >= 3 * places:  # perfusion, bolus tracking, or copies, which reading tells apart
        score -= _DYNAMIC_COSTS
        bad.append(f"{len(headers)} images at {places} positions")
    kernel = first.text("kernel").split("\\")[0]
    if _SHARP_KERNEL.search(kernel):
        score -= 50
        bad.append(f"sharp kernel {kernel}")
    elif kernel:
        score += 5
        good.append(f"kernel {kernel}")
    span = _span(headers)
    if not 80 <= span <= 350:
        score -= 15
        bad.append(f"covers {span:.0f} mm")
    refused = unsuited_because(headers) or _refusal(text)
    number = first.numbers("number", 1)
    return SeriesInfo(
        uid=first.text("uid"),
        number=int(number[0]) if number else None,
        description=first.text("description"),
        modality=first.text("modality"),
        slices=len(headers),
        thickness=thickness,
        orientation=first.orientation_name(),
        image_type=first.text("image_type").replace("\\", "/"),
        kernel=kernel,
        score=score,
        usable=refused is None,
        reason=refused or ", ".join([first.orientation_name(), *good, *(f"but {b}" for b in bad)]),
        enhanced=bool(enhanced),
        headers=tuple(headers),
        damaged=damaged,
    )


def _refusal(text: str) -> str | None:
    with_head = any(word in text for word in ("head", "brain", "cran", "kopf", "hirn", "schädel", "schaedel"))
    words = _said(_REFUSED if with_head else (*_REFUSED, *_SPINE), text)
    return f"“{words[0]}” in its description" if words else None


def _said(words: Iterable[str], text: str) -> list[str]:
    """Those of the words that a description says and does not deny."""
    return [word for word in words if re.search(rf"{_WITHOUT}\b{word}", text)]


def _span(headers: list[Header]) -> float:
    """mm between the first and the last slice."""
    normal = headers[0].normal()
    found = heights(headers, normal) if normal is not None else []
    return float(np.ptp(found)) if found else 0.0
