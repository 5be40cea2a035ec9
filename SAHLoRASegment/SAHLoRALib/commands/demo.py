"""``sahlora demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..events import Events
from .common import Common, table

#: The aSAH adapter that the demonstration shows, with the base that it belongs to.
ADAPTER = "asah-cp-lora"


@dataclass(frozen=True, kw_only=True)
class Arguments(Common):
    """The main job in a minute: make a synthetic aSAH head CT, segment it with the base alone and with its aSAH adapter, compare with the truth."""

    output: Path = Path("demo")
    """Folder for the scan, the masks and the pictures."""
    seed: int = 5
    """Of the synthetic case."""
    adapter: str = ADAPTER
    """Name or file of the adapter."""


def run(arguments: Arguments, events: Events) -> int:
    """Returns 0. Raises SAHLoRAError."""
    from ..batch import Outputs, segment_batch
    from ..cases import CaseTable
    from ..errors import SAHLoRAError
    from ..images import read_label
    from ..inputs import find_inputs
    from ..metrics import dice
    from ..montage import write_montage
    from ..phantom import PhantomConfig, make_cohort
    from ..segmenter import NONE, Segmenter, choose_models
    from ..slices import volume_ml

    base, adapter = choose_models("", arguments.adapter)
    cohort = make_cohort(PhantomConfig(arguments.output / "case", kind="asah", seed=arguments.seed, slices=30), events)
    case = next(iter(CaseTable.read(cohort)))
    ct, annotated = case.read()
    rows, figures = [], {}
    for label, name in (("base alone", NONE), (f"with {arguments.adapter}", arguments.adapter)):
        folder = arguments.output / label.replace(" ", "-")
        segmenter = Segmenter.load(str(base.path), name)
        result = segment_batch(segmenter, find_inputs((case.image,)), Outputs(folder, "nrrd", True, False), events)[0]
        if result.report is None or result.folder is None:
            raise SAHLoRAError(result.error)
        mask = read_label(result.folder / "mask.nrrd", ct)
        picture = result.folder / "comparison.png"
        score, ml = dice(mask, annotated), volume_ml(mask, ct)
        write_montage(picture, ct, mask, f"Synthetic aSAH, {label}: Dice {score:.3f}", "Red: segmented. Green: annotated.", annotated)
        figures[label] = {"dice": score, "segmented_ml": ml, "picture": str(picture)}
        rows.append((label, f"{ml:.1f}", f"{score:.3f}", str(picture)))
    arguments.say(f"Synthetic aSAH head CT: {case.image} (annotated: {volume_ml(annotated, ct):.1f} mL)")
    arguments.say(table(("", "segmented mL", "Dice", "picture"), rows, right=(1, 2)))
    arguments.say("One synthetic case shows that everything runs, not how good it is; the model cards tell that. Not a medical device.")
    digest = adapter.digest if adapter else None
    events.result(command="demo", annotated_ml=volume_ml(annotated, ct), figures=figures, base=base.digest, adapter=digest)
    return 0
