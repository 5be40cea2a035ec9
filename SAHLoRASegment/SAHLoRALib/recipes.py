"""The cohorts behind the models that come along, by name: Resources/Study/models.yaml, or another file of that form.

cohorts:
  tbi-train: {kind: tbi, count: 132, seed: 1000, use: 1-11, without: 0.2, matrix: 256}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .phantom import PhantomConfig

#: The word for the file that belongs to the bundled models, and where it lies in a clone of the repository.
BUNDLED = "models"
_PLACE = Path(__file__).resolve().parents[2] / "Resources" / "Study" / "models.yaml"
_KNOWN = ("kind", "count", "seed", "use", "without", "matrix", "slices", "warp")


@dataclass(frozen=True)
class Recipes:
    """cohorts: name → settings of `PhantomConfig`, without folder, heads and processes."""

    path: Path
    cohorts: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, name_or_path: str | Path) -> Recipes:
        """ "models" for the file of the bundled models, else a YAML file. Raises ConfigError."""
        path = _PLACE if str(name_or_path) == BUNDLED else Path(name_or_path)
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            advice = "it lies in a clone of the repository; name a YAML file of cohorts" if path == _PLACE else "name paper, models or a YAML file"
            raise ConfigError(f"The cohorts' file {path} cannot be read: {advice}.") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"The cohorts' file {path} is not YAML: {' '.join(str(error).split())}.") from error
        cohorts = content.get("cohorts") if isinstance(content, dict) else None
        if not isinstance(cohorts, dict) or not cohorts or not all(isinstance(settings, dict) for settings in cohorts.values()):
            raise ConfigError(f"The cohorts' file {path} must hold cohorts by name, such as cohorts: {{tbi-train: {{kind: tbi, count: 132}}}}.")
        for name, settings in cohorts.items():
            unknown = sorted(str(key) for key in set(settings) - set(_KNOWN))
            if unknown:
                raise ConfigError(f"Cohort {name} of {path} has the unknown setting {', '.join(unknown)}; known are {', '.join(_KNOWN)}.")
        return cls(path, cohorts)

    def names(self, only: Sequence[str] = ()) -> tuple[str, ...]:
        """All cohorts, or those asked for, in the file's order (ConfigError)."""
        stray = [name for name in only if name not in self.cohorts]
        if stray:
            raise ConfigError(f"There is no cohort {stray[0]} in {self.path}; there are {', '.join(self.cohorts)}.")
        return tuple(name for name in self.cohorts if not only or name in only)

    def config(self, name: str, output: Path, heads: Path | None, jobs: int = 1, form: str = "nrrd") -> PhantomConfig:
        """Settings of one cohort; its folder lies in `output` and has its name. Raises ConfigError."""
        try:
            return PhantomConfig(output / name, heads=heads, jobs=jobs, format=form, **self.cohorts[name])
        except (TypeError, ConfigError) as error:
            raise ConfigError(f"Cohort {name} of {self.path}: {error}") from error
