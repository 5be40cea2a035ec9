"""The live curves of a training: loss and validation Dice by step, a pair of series for each fold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .charts import COLORS, GREY, Chart

LOSS, DICE = "loss", "val_dice"


class Curves:
    """Metric events in, a chart out. The chart is drawn anew at most once in `every` seconds, so that many quick steps do not slow Slicer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, every: float = 1.0) -> None:
        self.chart = Chart("SAHLoRA training curves", "Step", "Loss and Dice")
        self._clock, self._every = clock, every
        self._method: Any = None
        self._points: dict[tuple[Any, str], tuple[list[float], list[float]]] = {}
        self._stale: set[tuple[Any, str]] = set()
        self._drawn = float("-inf")

    def start(self) -> None:
        """A new training: the curves of the last one go."""
        self._method, self._points, self._stale = None, {}, set()
        self.chart.clear()
        self._drawn = float("-inf")

    def follow(self, event: Mapping[str, Any]) -> None:
        """A metric event: name, value, step; and of which method, rank and fold. A study's next method begins with an empty chart."""
        if event.get("name") not in (LOSS, DICE):
            return
        method = (event.get("method"), event.get("rank"))
        if method != self._method:
            self.start()
            self._method = method
        key = (event.get("fold"), event["name"])
        steps, values = self._points.setdefault(key, ([], []))
        steps.append(float(event["step"]))
        values.append(float(event["value"]))
        self._stale.add(key)
        if self._clock() - self._drawn >= self._every:
            self.draw()

    def draw(self) -> None:
        """Bring the chart up to date."""
        for fold, name in sorted(self._stale, key=str):
            steps, values = self._points[fold, name]
            color = GREY if fold is None else COLORS[int(fold) % len(COLORS)]
            where = "all cases" if fold is None else f"fold {int(fold) + 1}"
            if name == LOSS:
                self.chart.put(f"loss, {where}", steps, values, color=color, points=False, line=True)
            else:
                self.chart.put(f"validation Dice, {where}", steps, values, color=color, line=True, dashed=True)
        self._stale = set()
        self._drawn = self._clock()

    def forget(self) -> None:
        """The scene closes; a training that goes on draws into the next one."""
        self.chart.forget()
        self._stale = set(self._points)
