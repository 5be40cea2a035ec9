"""The base of a study, trained from scratch as the study's file says, so that one file holds the whole experiment.

    pretraining:
      cases: tbi/cases.csv
      validation: 0.06
      training: {learning_rate: 0.002, steps: 2800, crop: [176, 160]}

The base lies in the study's folder as base.safetensors; a finished one is found again, an unfinished training goes on.
"""

from __future__ import annotations

from dataclasses import replace

from .cases import CaseTable
from .cohort import Cohort
from .crossvalidation import hold_out, processes, usable_cases
from .errors import ConfigError
from .events import Events
from .provenance import SCANS, TABLE, table_digest
from .runs import effective, run_digest
from .study_config import StudyConfig
from .training import fit, save_model
from .weights import read_info

BASE = "base.safetensors"


def with_base(study: StudyConfig, events: Events) -> StudyConfig:
    """The study with its own base, trained where that is still to be done; as it is where the file has no pretraining.

    Raises CaseError, ConfigError (another base lies there), SAHLoRAError, Cancelled after a checkpoint.
    """
    plan = study.pretraining
    if plan is None:
        return study
    target = study.output / BASE
    config = effective(plan.training, None)
    with processes(config) as group:
        events = events if group.leads else Events()
        usable = usable_cases(CaseTable.read(plan.cases, study.segment), events)
        learning, held = hold_out(usable.volumes, plan.validation, config.seed)
        training, validation = (usable.table.of_patients(side) for side in (learning, held))
        digest = run_digest(config, None, [[case.case for case in side] for side in (training, validation)], usable.digests)
        if target.exists():
            if read_info(target).training.get("run") != digest:
                raise ConfigError(f"{target} is the base of another pre-training; give the study another output folder, or remove that file.")
            events.log(f"The base {target} is finished already.")
            return replace(study, base=str(target))
        cohort = Cohort(usable.table, None, config.memory_gb)
        caches = [cohort.slices([case.case for case in side], config.grid, events) for side in (training, validation)]
        result = fit(config, caches[0], caches[1], None, study.output / "pretraining", events, context={"run": "pre-training"})
        if group.leads:
            told = {
                "run": digest, "cases": len(training), "validation_cases": len(validation), "patients": len(learning),
                TABLE: table_digest(usable.digests), SCANS: sorted(usable.scans.values()),
            }  # fmt: skip
            save_model(result, target, training=told, description="Base of a study, trained from scratch.")
    return replace(study, base=str(target))
