"""What is wrong with a case table, everything at once, before hours of training are spent on it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from .ahead import in_order
from .cases import Case, CaseTable
from .ct import CTVolume
from .errors import CaseError, SAHLoRAError
from .events import Events
from .images import open_image
from .metrics import mask_ml

#: More than any haemorrhage: probably the mask of the head or the brain.
IMPLAUSIBLE_ML = 300.0


@dataclass(frozen=True)
class Finding:
    """One case after its check.

    slices: number; gap_mm: median distance between slices; spacing: mm between rows and columns; ml: annotated volume; all None where the scan
    or the mask cannot be read. problems: each with what to do; a case with problems is not used. warnings: what does no harm but should be known.
    digest: SHA-256 of the scan's voxels. mask_digest: SHA-256 of the mask as it lies on the scan, "none" without a file; empty where it is not read.
    """

    case: str
    patient: str
    slices: int | None = None
    gap_mm: float | None = None
    spacing: tuple[float, float] | None = None
    ml: float | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    digest: str = ""
    mask_digest: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems


def check_cases(table: CaseTable, events: Events, against: CaseTable | None = None, one: Callable[[Case], Finding] | None = None) -> list[Finding]:
    """One finding a case, in the table's order, then one for each incomplete entry. one: instead of `check_case`, where a finding is known already.

    Problems: a missing or unreadable file, a scan that is not a head CT, a mask on another grid or with several labels, an empty mask that is
    not announced, the same scan twice, one patient in two splits or also in `against`, or written in two ways. Raises Cancelled between two cases.
    """
    others = [Finding(case.case, case.patient, digest=digest) for case, digest in _other_scans(against, events)]
    return _checked(table, events, others, one or check_case)


def check_training(table: CaseTable, events: Events, against: Sequence[Finding] = ()) -> list[Finding]:
    """`check_cases` of all that is trained on. Cases of the split test need not be there nor be annotated yet; they must only share no patient and no
    scan with the others. against: the findings of the validation cases.
    """
    kept, tests = table.parted()
    findings = [*_checked(kept, events, against, check_case), *(Finding(name, "", problems=(problem,)) for name, problem in table.incomplete)]
    elsewhere = {digest: case.case for case, digest in _other_scans(tests, events) if digest}
    patients = {plain_name(case.patient) for case in tests}
    for n, finding in enumerate(findings):
        problems = list(finding.problems)
        if finding.digest in elsewhere:
            problems.append(f"It is the same scan as case {elsewhere[finding.digest]} of the split test: remove one of the two.")
        if finding.patient and plain_name(finding.patient) in patients:
            problems.append(f"Patient {finding.patient} is in several splits (test, too): keep all scans of a patient in one.")
        findings[n] = replace(finding, problems=tuple(problems))
    chosen_on = {plain_name(judge.patient) for judge in against if judge.patient}
    both = {case.case: case for case in tests if plain_name(case.patient) in chosen_on}
    both |= {name: tests[name] for name in (elsewhere.get(judge.digest) for judge in against) if name is not None}
    said = "It is of the split test, and the patient or the scan is in the validation table too: what is chosen on it is no test of it."
    return findings + [Finding(case.case, case.patient, problems=(said,)) for case in both.values()]


def _checked(table: CaseTable, events: Events, others: Sequence[Finding], one: Callable[[Case], Finding]) -> list[Finding]:
    """`check_cases`; others: patients and digests of the other table's cases."""
    findings: list[Finding] = []
    seen: dict[str, str] = {}
    elsewhere = {other.digest: other.case for other in others if other.digest}
    shared = {plain_name(other.patient) for other in others if other.patient}
    splits = _splits(table)
    spelt: dict[str, str] = {}
    for done, (case, finding) in enumerate(zip(table, in_order(one, table), strict=True)):
        events.check_cancel()
        events.progress("Checking cases", done, len(table), case.case)
        problems = list(finding.problems)
        if finding.digest:
            first = seen.setdefault(finding.digest, case.case)
            if first != case.case:
                problems.append(f"It is the same scan as case {first}: remove one of the two.")
            if finding.digest in elsewhere:
                problems.append(f"It is the same scan as case {elsewhere[finding.digest]} of the other table: remove it from one.")
        plain = plain_name(case.patient)
        if len(splits[plain]) > 1:
            problems.append(f"Patient {case.patient} is in several splits ({', '.join(sorted(splits[plain]))}): keep all scans of a patient in one.")
        if (spelling := spelt.setdefault(plain, case.patient)) != case.patient:
            problems.append(
                f"Patient {case.patient} seems to be {spelling}, written in another way: write a patient in one way, and two patients in ways that "
                "differ by more than capitals, signs and leading zeros."
            )
        if plain in shared:
            problems.append(f"Patient {case.patient} is also in the other table: keep all scans of a patient on one side.")
        findings.append(replace(finding, problems=tuple(problems)))
    events.progress("Checking cases", len(table), len(table))
    return findings + [Finding(name, "", problems=(problem,)) for name, problem in table.incomplete]


def plain_name(patient: str) -> str:
    """A patient's name without what people write now so, now so: capitals, signs between the parts, leading zeros (P-007, p_7)."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s._-]+", "-", patient.strip().casefold()))


def patient_volumes(table: CaseTable, findings: Iterable[Finding]) -> dict[str, float]:
    """Patient → annotated mL, the mean of the patient's usable scans; what folds are stratified by. Patients without a usable scan are missing."""
    volumes: dict[str, list[float]] = defaultdict(list)
    usable = {f.case: f.ml for f in findings if f.ok and f.ml is not None}
    for case in table:
        if case.case in usable:
            volumes[case.patient].append(usable[case.case])
    return {patient: float(np.mean(parts)) for patient, parts in volumes.items()}


def require_usable(findings: Sequence[Finding]) -> None:
    """Raise one CaseError that names every case with a problem; nothing where all are fine."""
    bad = [f for f in findings if not f.ok]
    if bad:
        lines = "\n".join(f"  {f.case}: {' '.join(f.problems)}" for f in bad)
        raise CaseError(f"{len(bad)} of {len(findings)} cases cannot be used; correct them or take them out of the table:\n{lines}")


def findings_table(findings: Sequence[Finding]) -> str:
    """The findings as a table for people: case, patient, slices, spacing, mL, problems; a line below each for every further one."""
    header = ("case", "patient", "slices", "spacing (mm)", "mL", "problems")
    rows: list[tuple[str, ...]] = []
    for f in findings:
        spacing = "–" if f.spacing is None or f.gap_mm is None else f"{f.spacing[0]:.2f} × {f.spacing[1]:.2f} × {f.gap_mm:.2f}"
        said = [*f.problems, *(f"(note) {w}" for w in f.warnings)] or ["none"]
        slices, ml = "–" if f.slices is None else str(f.slices), "–" if f.ml is None else f"{f.ml:.2f}"
        rows.append((f.case, f.patient, slices, spacing, ml, said[0]))
        rows += [("", "", "", "", "", more) for more in said[1:]]
    widths = [max(len(row[c]) for row in [header, *rows]) for c in range(5)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5]]) for row in [header, *rows]]
    lines.insert(1, "  ".join(["-" * w for w in [*widths, len(header[5])]]))
    bad = sum(not f.ok for f in findings)
    lines.append(f"{len(findings)} cases, {bad} with problems" if bad else f"{len(findings)} cases, no problems")
    return "\n".join(lines)


def scan_digest(ct: CTVolume) -> str:
    """SHA-256 of the voxels in whole HU: the same for a scan as DICOM and as NIfTI, whatever its storage order."""
    digest = hashlib.sha256(repr(ct.hu.shape).encode())
    for plane in ct.hu:  # one at a time, so that no second volume is held
        digest.update(np.ascontiguousarray(np.rint(plane).clip(-32768, 32767), dtype="<i2").tobytes())
    return digest.hexdigest()


def mask_digest(case: Case, mask: np.ndarray, ct: CTVolume) -> str:
    """SHA-256 of a case's mask as it lies on the scan, "none" where it has no file. mask: (slices, rows, columns) bool, as `Case.read_mask` gives it.

    A mask that is stored as the scan is, voxel for voxel, has the digest of its stored values, by which runs and model cards of earlier versions
    know it; one that its header moves or mirrors has that of the place where it comes to lie.
    """
    if case.mask is None:
        return "none"
    values = sitk.GetArrayViewFromImage(image := open_image(case.mask, CaseError))
    stored = ct.storage.to_stored(mask)
    if values.shape == stored.shape and np.array_equal(_labelled(values, case.segment), stored):
        return hashlib.sha256(f"{case.segment} {values.shape}".encode() + values.astype(np.int32).tobytes()).hexdigest()
    del values, image
    return hashlib.sha256(f"placed {mask.shape}".encode() + np.packbits(mask).tobytes()).hexdigest()


def _labelled(values: np.ndarray, segment: str | None) -> np.ndarray:
    """Of a label map's values, bool: those that `segment` names by number; where it names none, all that are labelled."""
    try:
        return np.isin(values, [float(part) for part in (segment or "").split("|")])
    except ValueError:
        return np.asarray(values > 0.5)


def check_case(case: Case) -> Finding:
    """What the case's own files say, whatever the other cases are."""
    problems: list[str] = []
    if case.mask is not None and not case.mask.exists():
        problems.append(f"{case.mask} does not exist. Correct the path of the mask in the case table.")
    try:
        ct = case.read_ct(sound=True)
    except SAHLoRAError as error:
        return Finding(case.case, case.patient, problems=(str(error), *problems))
    ml: float | None = None
    placed = ""
    warnings = list(ct.warnings)
    if not problems:
        try:
            mask = case.read_mask(ct)
        except SAHLoRAError as error:
            problems.append(str(error))
        else:
            ml = mask_ml(mask, ct.voxel_volumes_ml)
            placed = mask_digest(case, mask, ct)
            problems += _contradictions(case, bool(mask.any()), ml)
            if ml > IMPLAUSIBLE_ML:
                warnings.append(f"The mask holds {ml:.0f} mL: is it the haemorrhage, and not the brain?")
    gap = float(np.median(ct.slice_thicknesses))
    return Finding(case.case, case.patient, len(ct.hu), gap, ct.spacing, ml, tuple(problems), tuple(warnings), scan_digest(ct), placed)


def _contradictions(case: Case, found: bool, ml: float) -> list[str]:
    """An empty mask must be announced, and an announced one must be empty."""
    if not found and case.haemorrhage is not False:
        which = f" (no voxel of {case.segment})" if case.segment else ""
        return [f"The mask is empty{which}: {case.mask}. Annotate it, or write `no` in the column haemorrhage if the patient has none."]
    if found and case.haemorrhage is False:
        return [f"The table says that there is no haemorrhage, and the mask holds {ml:.2f} mL: {case.mask}. Correct one of the two."]
    return []


def _splits(table: CaseTable) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for case in table:
        splits[plain_name(case.patient)].add(case.split or "no split")
    return splits


def _other_scans(table: CaseTable | None, events: Events) -> Iterator[tuple[Case, str]]:
    """The cases of another table and their scans' digests, empty for scans that cannot be read: they are that table's problem."""
    for done, (case, digest) in enumerate(zip(table or (), in_order(_digest, table or ()), strict=True)):
        events.check_cancel()
        events.progress("Reading the other table", done, len(table or ()), case.case)
        yield case, digest


def _digest(case: Case) -> str:
    """Empty where the scan cannot be read."""
    try:
        return scan_digest(case.read_ct())
    except SAHLoRAError:
        return ""
