"""“SAHLoRA: training cases” in the Sample Data module: a click opens SAHLoRA Train, which makes the cases in the background, without network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .samples import CATEGORY

NAME = "SAHLoRA: training cases"
#: The open panel's way to make the cases; a list, as a reloaded panel takes the place of the last.
makers: list[Callable[[], None]] = []


def register(thumbnail: Path) -> None:
    """Name the cases to the Sample Data module."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        thumbnailFileName=str(thumbnail),
        uris=thumbnail.as_uri(),  # must be given; the custom downloader does not use it
        fileNames="SAHLoRATrainingCases",
        nodeNames=None,
        loadFiles=False,
        customDownloader=make,
    )


def make(source: Any = None) -> list[Any]:
    """Show the module and have it make the cases; no node is loaded."""
    import slicer

    if slicer.util.mainWindow() is not None:
        slicer.util.selectModule("SAHLoRATrain")
    if makers:
        makers[-1]()
    return []
