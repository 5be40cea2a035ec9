"""What the check of a case folder said, for people: a row a case, totals, and what stands in the way of a training. Plain data, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .case_check import Finding

#: A fold's test patients; fewer than these say little.
FEWEST_TESTED = 3


@dataclass(frozen=True)
class RowReport:
    """A row after its check. slices; spacing: text such as 0.49 × 0.49 × 5.00 mm; ml: annotated; all empty where they are not known.

    problems: a sentence each; such a case is not trained on. notes: what does no harm but should be known. checked: False where the files have not
    been read yet (`CaseFolder.peek`). split: test for a case that is kept for a later test.
    """

    case: str
    patient: str
    site: str = ""
    slices: int | None = None
    spacing: str = ""
    ml: float | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checked: bool = True
    split: str = ""

    @property
    def ok(self) -> bool:
        return self.checked and not self.problems

    @property
    def state(self) -> str:
        """In words, for a cell of a table."""
        return " ".join(self.problems) or ("not checked yet" if not self.checked else "good")


@dataclass(frozen=True)
class CaseFolderReport:
    """All rows, and totals: cases, patients, sites (named ones), ml (annotated, of the cases that could be read)."""

    rows: tuple[RowReport, ...]

    @property
    def cases(self) -> int:
        return len(self.rows)

    @property
    def patients(self) -> int:
        return len({row.patient for row in self.rows if row.patient})

    @property
    def sites(self) -> int:
        return len({row.site for row in self.rows if row.site})

    @property
    def ml(self) -> float:
        return sum(row.ml or 0.0 for row in self.rows)

    @property
    def problems(self) -> int:
        """Cases that cannot be used."""
        return sum(bool(row.problems) for row in self.rows)

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Cases whose files have not been read yet."""
        return tuple(row.case for row in self.rows if not row.checked)

    @property
    def totals(self) -> str:
        """A line: 12 cases of 10 patients from 2 sites, 184.3 mL annotated, 1 with problems."""
        parts = [f"{numbered(self.cases, 'case')} of {numbered(self.patients, 'patient')}"]
        parts[0] += f" from {numbered(self.sites, 'site')}" if self.sites else ""
        parts.append(f"{self.ml:.1f} mL annotated")
        parts += [f"{self.problems} with problems"] if self.problems else []
        parts += [f"{len(self.unchecked)} not checked yet"] if self.unchecked else []
        return ", ".join(parts)

    def blockers(self, folds: int) -> list[str]:
        """Why a training with so many folds (0: none) cannot begin, a sentence each; what the files say, as far as they have been read."""
        if not self.rows:
            return ["There are no cases yet: add a scan with its annotation, a folder or a CSV file."]
        if self.cases == 1:
            return ["There is one case only, and nothing could be said about any other patient: add cases of other patients."]
        told = []
        if self.problems:
            names = [row.case for row in self.rows if row.problems]
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            told.append(f"There is something wrong with {shown}: correct what the table says, or remove {'it' if len(names) == 1 else 'them'}.")
        patients = len({row.patient for row in self._learnt})
        if folds > patients:
            told.append(f"{folds} folds need at least {folds} patients, and there are {patients}: add patients or choose fewer folds.")
        elif folds and self._read and self._bleeding - -(-self._bleeding // folds) < 2:
            told.append(
                f"{numbered(self._bleeding, 'patient')} with haemorrhage {'is' if self._bleeding == 1 else 'are'} too few for {folds} folds: each "
                "needs two of them, to learn from and to tell when to stop. Add patients."
            )
        elif not folds and self._read and self._bleeding == 0:
            told.append("No case has haemorrhage, so there is nothing to learn: check the masks.")
        return told

    def warnings(self, folds: int) -> list[str]:
        """What a user should know before training with so many folds (0: no cross-validation), a sentence each; begins with the `blockers`."""
        told = self.blockers(folds)
        if self.cases < 2:
            return told
        patients = len({row.patient for row in self._learnt})
        if not folds:
            told.append("Without folds nothing tells how good the adapter is on patients it has not seen.")
        elif folds <= patients < FEWEST_TESTED * folds:
            told.append(
                f"{patients} patients in {folds} folds: each fold is tested on about {patients // folds}, so the figures will be uncertain; "
                f"{FEWEST_TESTED * folds} patients would be better."
            )
        if self.sites == 1:
            told.append("All cases are from one site, so nobody can tell how the adapter does on another scanner.")
        elif self.sites > 1 and (lonely := self._lonely_sites()):
            told.append(f"Only one patient is from {', '.join(lonely)}: in its fold, the network has never seen that scanner.")
        return told

    @property
    def _read(self) -> bool:
        return not self.unchecked and not self.problems

    @property
    def _learnt(self) -> list[RowReport]:
        """Rows that training takes."""
        return [row for row in self.rows if row.split != "test"]

    @property
    def _bleeding(self) -> int:
        return len({row.patient for row in self._learnt if row.ml})

    def _lonely_sites(self) -> list[str]:
        patients: dict[str, set[str]] = {}
        for row in self.rows:
            patients.setdefault(row.site, set()).add(row.patient)
        return sorted(site for site, members in patients.items() if site and len(members) == 1)


def row_report(finding: Finding, site: str = "", split: str = "", checked: bool = True) -> RowReport:
    """A finding of `case_check` as a row."""
    spacing = ""
    if finding.spacing is not None and finding.gap_mm is not None:
        spacing = f"{finding.spacing[0]:.2f} × {finding.spacing[1]:.2f} × {finding.gap_mm:.2f} mm"
    return RowReport(finding.case, finding.patient, site, finding.slices, spacing, finding.ml, finding.problems, finding.warnings, checked, split)


def numbered(count: int, what: str) -> str:
    """1 case, 2 cases."""
    return f"{count} {what}{'' if count == 1 else 's'}"
