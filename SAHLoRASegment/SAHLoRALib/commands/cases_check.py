"""``sahlora cases check``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from ..events import Events
from .common import Common


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """Read every scan and mask of a case table and say all that is wrong at once, before hours of training are spent on it.

    Exit code: 0 no problems, 1 some cases have problems, 2 all have or the table cannot be read.
    """

    cases: tyro.conf.Positional[Path]
    """cases.csv (case, image, mask, patient, site), or a folder of cases."""
    segment: str | None = None
    """Which segment or label is haemorrhage, where a row does not say."""
    against: Path | None = None
    """Another case table that must share neither patients nor scans with this one."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns the exit code. Raises CaseError where the table itself cannot be read."""
    from ..case_check import findings_table
    from ..cases import CaseTable

    cases = CaseTable.read(arguments.cases, arguments.segment)
    against = CaseTable.read(arguments.against) if arguments.against else None
    for warning in cases.warnings:
        events.log(warning, "warning")
    findings = cases.check(events, against)
    arguments.say(findings_table(findings))
    bad = sum(not finding.ok for finding in findings)
    events.result(command="cases check", cases=[{**asdict(f), "ok": f.ok} for f in findings], problems=bad)
    return 0 if not bad else (1 if bad < len(findings) else 2)
