"""The synthetic head CT in the Sample Data module; it comes with the extension, so no network is needed."""

from __future__ import annotations

import hashlib
from pathlib import Path

CATEGORY = "SAHLoRA"
NAME = "SAHLoRA: synthetic aSAH head CT"
NODE_NAME = "SyntheticASAH"
FILE = "SyntheticASAH.nrrd"


def sample_file() -> Path:
    """In the installed extension beside the packages, in the source tree one folder up."""
    packages = Path(__file__).resolve().parents[1]
    places = [packages / "Resources" / "Phantom" / FILE, packages.parent / "Resources" / "Phantom" / FILE]
    return next((place for place in places if place.is_file()), places[0])


def register(thumbnail: Path) -> None:
    """Name the data set to the Sample Data module. A file:// address is copied like a download."""
    import SampleData

    path = sample_file()
    if not path.is_file():
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        thumbnailFileName=str(thumbnail),
        uris=path.as_uri(),
        fileNames=FILE,
        nodeNames=NODE_NAME,
        checksums=f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}",  # or a copy of an older extension's would be taken for it
    )
