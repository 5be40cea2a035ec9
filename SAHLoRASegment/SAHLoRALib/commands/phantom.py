"""``sahlora phantom``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from ..events import Events
from .common import Common


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """Make synthetic head CT with annotated haemorrhage: TBI, aneurysmal SAH, or none. The same seed gives the same case.

    With --cohort whole cohorts: the one of the paper's experiment, or those behind the models that come along.
    """

    output: Path
    """Folder for the cases and their table, cases.csv. Cases that are there already are kept."""
    kind: Literal["tbi", "asah", "none"] = "asah"
    """Traumatic brain injury, aneurysmal subarachnoid haemorrhage, or no haemorrhage."""
    count: int = 1
    """How many cases."""
    seed: int = 0
    """Seed of the first case; the others count up from it."""
    heads: Path | None = None
    """Folder of label maps with FreeSurfer labels (*.nii.gz). Left out, the built-in ICBM152 anatomy serves."""
    use: str | None = None
    """Which label maps of the folder, counted from 1: 1-11 or 1,4,7-9. Left out, all in turn."""
    without: float = 0.0
    """Share of cases without haemorrhage."""
    format: Literal["nrrd", "nii.gz", "dicom"] = "nrrd"
    """File type of the scans; a DICOM series keeps uneven slice gaps too."""
    matrix: int = 512
    """Rows and columns."""
    slices: int | None = None
    """Slices of a scan. Left out, each case's scanner decides."""
    warp: float = 1.0
    """How far the heads are made other people's: 1 as they are, 2 wider or narrower by up to 17 % in each direction and bent by 4 mm over 60 mm; at
    most 3."""
    jobs: int = 1
    """Processes that share the work; the cases are the same with any number."""
    cohort: str = ""
    """paper: 124 TBI patients and 30 aSAH patients of two hospitals, on different heads (folders tbi and asah, volumes.csv, volumes.md). models: all
    cohorts that the models that come along were made with; or a YAML file of cohorts, such as Resources/Study/models.yaml."""
    share: float = 1.0
    """Of the paper's patients, such as 0.1 for a trial."""
    patients: tuple[int, int] | None = None
    """Patients with TBI and with aSAH instead of the paper's 124 30."""
    only: tuple[str, ...] = ()
    """Of the cohorts of the models those with these names."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises ConfigError, ScanError, OutputError, Cancelled."""
    if arguments.cohort:
        return _cohort(arguments, events)
    for name in ("patients", "only"):
        if getattr(arguments, name):
            raise ConfigError(f"{name} goes with --cohort; without it --count says how many cases.")
    from ..phantom import PhantomConfig, make_cohort

    names = ("output", "kind", "count", "seed", "heads", "use", "without", "format", "matrix", "slices", "warp", "jobs")
    table = make_cohort(PhantomConfig(**{name: getattr(arguments, name) for name in names}), events)
    arguments.say(f"{arguments.count} cases: {table}")
    events.result(command="phantom", cases=str(table), count=arguments.count)
    return 0


def _cohort(arguments: Arguments, events: Events) -> int:
    """--cohort paper, models or a file."""
    given = [
        name
        for name, default in (("kind", "asah"), ("count", 1), ("use", None), ("without", 0.0), ("warp", 1.0))
        if getattr(arguments, name) != default
    ]
    if given:
        raise ConfigError(f"--cohort {arguments.cohort} decides {', '.join(given)} itself; leave that out.")
    if arguments.cohort == "paper":
        return _paper(arguments, events)
    from ..phantom import make_cohort
    from ..recipes import Recipes

    if arguments.seed or arguments.patients or arguments.share != 1.0:
        raise ConfigError("The cohorts of the models have their own seeds and sizes; leave seed, patients and share out.")
    recipes = Recipes.read(arguments.cohort)
    tables = {}
    for name in recipes.names(arguments.only):
        tables[name] = make_cohort(recipes.config(name, arguments.output, arguments.heads, arguments.jobs, arguments.format), events)
        arguments.say(f"{name}: {tables[name]}")
    events.result(command="phantom", cohorts={name: str(path) for name, path in tables.items()})
    return 0


def _paper(arguments: Arguments, events: Events) -> int:
    from ..phantom.paper_cohort import PaperCohort, make_paper_cohort

    if arguments.only:
        raise ConfigError("only goes with the cohorts of the models.")
    tbi, asah = arguments.patients or (None, None)
    config = PaperCohort(
        arguments.output, arguments.heads, arguments.seed, arguments.share, tbi, asah,
        format=arguments.format, matrix=arguments.matrix, slices=arguments.slices, jobs=arguments.jobs,
    )  # fmt: skip
    summary = make_paper_cohort(config, events)
    arguments.say(summary.read_text(encoding="utf-8"))
    events.result(command="phantom", summary=str(summary), volumes=str(summary.with_suffix(".csv")), count=sum(config.counts))
    return 0
