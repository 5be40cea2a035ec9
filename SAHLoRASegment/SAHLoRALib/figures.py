"""Pictures of a study or a cross-validation, as PNG files without a display (matplotlib's Agg)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import replacing
from .statistics import bland_altman

if TYPE_CHECKING:
    import pandas as pd

_DPI = 120
#: Colours that stay apart for colour-blind readers (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
_KIND_COLOURS = {"none": "#777777", "standard": "#0072B2", "adapter": "#D55E00", "scratch": "#009E73", "variant": "#CC79A7"}
_KIND_NAMES = {"none": "no fine-tuning", "standard": "standard fine-tuning", "adapter": "adapter", "scratch": "from scratch", "variant": "variant"}
_KIND_MARKERS = {"standard": "s", "adapter": "o", "scratch": "D"}
_VARIANT_MARKERS = ("^", "v", "<", ">")
_SPREAD = 0.14
#: The files that studies and trainings draw.
BY_METHOD, AGAINST_VOLUME, PREDICTED, BLAND_ALTMAN = (
    "dice_by_method.png",
    "dice_against_volume.png",
    "predicted_against_annotated.png",
    "bland_altman.png",
)
AGAINST_PARAMETERS, TRAINING = "dice_against_parameters.png", "training.png"
FILES = (BY_METHOD, AGAINST_VOLUME, PREDICTED, BLAND_ALTMAN, AGAINST_PARAMETERS, TRAINING)
#: Small pictures a row in figures with one for each method.
_COLUMNS = 4


def draw_study(patients: pd.DataFrame, methods: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """All figures of a study: title → file. patients: a row for each patient and method; methods: a row a method (`study_tables`)."""
    drawn = {"Dice by method": dice_by_method(patients, methods, folder / BY_METHOD)} | draw_volumes(patients, folder)
    if (methods["trainable"] > 0).any():
        drawn["Dice against trainable parameters and rank"] = dice_against_parameters(methods, folder / AGAINST_PARAMETERS)
    return drawn


def draw_volumes(patients: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """The figures of `draw_study` that need no table of methods: title → file."""
    return {
        "Dice against annotated volume": dice_against_volume(patients, folder / AGAINST_VOLUME),
        "Predicted against annotated volume": predicted_against_annotated(patients, folder / PREDICTED),
        "Bland–Altman: difference against mean of the volumes": bland_altman_plot(patients, folder / BLAND_ALTMAN),
    }


def dice_by_method(patients: pd.DataFrame, methods: pd.DataFrame, path: Path) -> Path:
    """A row a method: every patient's Dice, quartiles, and the mean with its bootstrap interval."""
    labels = list(methods["label"])
    figure, axis = _figure(7.5, 0.9 + 0.34 * len(labels))
    for y, row in enumerate(methods.to_dict(orient="records")):
        values = patients.loc[patients["label"] == row["label"], "dice"].dropna().to_numpy(float)
        colour = _KIND_COLOURS.get(row["kind"], "#000000")
        if len(values):
            box = axis.boxplot([values], positions=[y], orientation="horizontal", widths=0.55, showfliers=False, patch_artist=True)
            for part in box["boxes"]:
                part.set(facecolor=colour, alpha=0.18, edgecolor=colour)
            for name in ("whiskers", "caps", "medians"):
                for part in box[name]:
                    part.set(color=colour, linewidth=1)
            axis.scatter(values, y + _jitter(len(values)), s=9, color=colour, alpha=0.55, linewidths=0)
            ends = [[_gap(row["dice"], row["dice_low"])], [_gap(row["dice_high"], row["dice"])]]
            axis.errorbar([row["dice"]], [y], xerr=ends, fmt="D", ms=4, color="black", capsize=2, lw=1)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("Dice of a patient (box: quartiles; diamond: mean with 95 % interval)", fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def dice_against_volume(patients: pd.DataFrame, path: Path) -> Path:
    """A small picture for each method: Dice against annotated mL on a logarithmic axis, with the means of the volume strata."""
    bleeding = patients[patients["annotated_ml"] > 0]
    figure, panels = _panels(bleeding)
    for axis, (label, part) in panels:
        axis.scatter(part["annotated_ml"], part["dice"], s=10, color=_COLOURS[0], alpha=0.7, linewidths=0)
        for _, stratum in part.groupby("stratum", sort=False):
            ends = [stratum["annotated_ml"].min(), stratum["annotated_ml"].max()]
            axis.plot(ends, [stratum["dice"].mean()] * 2, color=_COLOURS[1], lw=2)
        axis.set_xscale("log")
        axis.set_ylim(-0.03, 1.03)
        axis.set_title(label, fontsize=8)
        axis.grid(alpha=0.3)
    figure.supxlabel("annotated volume (mL); lines: means of the strata", fontsize=8)
    figure.supylabel("Dice", fontsize=8)
    return _save(figure, path)


def dice_against_parameters(methods: pd.DataFrame, path: Path) -> Path:
    """Mean Dice against the number of trainable parameters; an adapter's ranks are joined, over-parameterised ones are hollow. A variant stands
    alone, with its label and a marker of its own.
    """
    from .runs import ZERO_SHOT_CHOSEN  # brings torch, which who only asks for names may not have

    figure, axis = _figure(7.0, 4.4)
    trained = methods[methods["trainable"] > 0]
    alone = trained["kind"].isin(("scratch", "variant"))
    variants = itertools.cycle(_VARIANT_MARKERS)
    for n, (name, part) in enumerate(trained.groupby(trained["label"].where(alone, trained["method"]), sort=False)):
        part = part.sort_values("trainable")
        kind = part["kind"].iloc[0]
        colour, marker = _COLOURS[n % len(_COLOURS)], next(variants) if kind == "variant" else _KIND_MARKERS[kind]
        ends = [[_gap(a, b) for a, b in zip(part["dice"], part["dice_low"], strict=True)]]
        ends.append([_gap(b, a) for a, b in zip(part["dice"], part["dice_high"], strict=True)])
        axis.errorbar(part["trainable"], part["dice"], yerr=ends, fmt="-" if len(part) > 1 else "none", color=colour, lw=1, capsize=2, alpha=0.8)
        hollow = (part["kernel_numbers"] > 0) & (part["trainable"] > part["kernel_numbers"])
        faces = ["white" if h else colour for h in hollow]
        axis.scatter(part["trainable"], part["dice"], s=34, marker=marker, facecolors=faces, edgecolors=colour, zorder=3, label=name)
        for row in part.to_dict(orient="records"):
            if row["rank"] and kind == "adapter":
                axis.annotate(f"r{row['rank']}", (row["trainable"], row["dice"]), xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour)
    for row in methods[methods["kind"] == "none"].to_dict(orient="records"):
        axis.axhline(row["dice"], color=_KIND_COLOURS["none"], lw=1, ls=":" if row["label"] == ZERO_SHOT_CHOSEN else "--", label=row["label"])
    axis.set_xscale("log")
    told = "circle: adapter, hollow: more numbers than its kernels; square: standard;\ndiamond: from scratch; triangle: variant"
    axis.set_xlabel(f"trainable parameters\n({told})", fontsize=8)
    axis.set_ylabel("mean Dice, 95 % interval", fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, path)


def predicted_against_annotated(patients: pd.DataFrame, path: Path) -> Path:
    """A small picture for each method: predicted against annotated mL, with the line of equality."""
    figure, panels = _panels(patients)
    most = max(1.0, float(patients[["annotated_ml", "predicted_ml"]].to_numpy(float).max()) * 1.05)
    for axis, (label, part) in panels:
        axis.plot([0, most], [0, most], color="#777777", lw=1)
        axis.scatter(part["annotated_ml"], part["predicted_ml"], s=10, color=_COLOURS[0], alpha=0.7, linewidths=0)
        axis.set_xlim(-0.02 * most, most)
        axis.set_ylim(-0.02 * most, most)
        axis.set_aspect("equal")
        axis.set_title(label, fontsize=8)
        axis.grid(alpha=0.3)
    figure.supxlabel("annotated (mL)", fontsize=8)
    figure.supylabel("predicted (mL)", fontsize=8)
    return _save(figure, path)


def bland_altman_plot(patients: pd.DataFrame, path: Path) -> Path:
    """A small picture for each method: predicted − annotated against their mean, with bias and limits of agreement."""
    figure, panels = _panels(patients)
    for axis, (label, part) in panels:
        annotated, predicted = part["annotated_ml"].to_numpy(float), part["predicted_ml"].to_numpy(float)
        axis.scatter((annotated + predicted) / 2, predicted - annotated, s=10, color=_COLOURS[0], alpha=0.7, linewidths=0)
        agreement = bland_altman(annotated, predicted)
        for value, style in ((agreement.bias.value, "-"), (agreement.lower, "--"), (agreement.upper, "--")):
            if math.isfinite(value):
                axis.axhline(value, color=_COLOURS[1], lw=1, ls=style)
        axis.set_title(label, fontsize=8)
        axis.grid(alpha=0.3)
    figure.supxlabel("mean of annotated and predicted (mL)", fontsize=8)
    figure.supylabel("predicted − annotated (mL)", fontsize=8)
    return _save(figure, path)


def curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> Path:
    """Training loss and validation Dice over the steps, a colour for each training (its name → its history as `fit` keeps it)."""
    figure, axes = _figure(8.0, 3.0, columns=2)
    for n, (name, history) in enumerate(histories.items()):
        colour = _COLOURS[n % len(_COLOURS)]
        axes[0].plot([e["step"] for e in history], [e["loss"] for e in history], color=colour, lw=1.2, marker=".", ms=3, label=name)
        known = [(e["step"], e["dice"]) for e in history if e.get("dice") is not None]
        if known:
            axes[1].plot([s for s, _ in known], [d for _, d in known], color=colour, lw=1.2, marker=".", ms=3)
    for axis, title in zip(axes, ("training loss", "validation Dice"), strict=True):
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    return _save(figure, path)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure with one axis, or with several beside each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns)
    for axis in np.atleast_1d(axes):
        axis.tick_params(labelsize=7)
    return figure, axes


def _panels(patients: pd.DataFrame) -> tuple[Any, list[tuple[Any, tuple[str, pd.DataFrame]]]]:
    """A figure with an axis for each label, in the order of the table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [(str(label), part) for label, part in patients.groupby("label", sort=False)]
    columns = min(_COLUMNS, max(1, len(groups)))
    rows = max(1, math.ceil(len(groups) / columns))
    side = 2.1 if len(groups) > 1 else 4.0
    width, height = columns * side + 0.6, rows * side + 0.5
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    # By hand: with many panels, constrained layout takes seconds.
    figure.subplots_adjust(0.55 / width, 0.45 / height, 1 - 0.1 / width, 1 - 0.3 / height, wspace=0.1, hspace=0.2)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat:
        axis.tick_params(labelsize=6)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, len(groups) - columns) : len(groups)]:
        axis.tick_params(labelbottom=True)  # the lowest of its column
    return figure, list(zip(axes.flat, groups, strict=False))


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    return path


def _jitter(count: int) -> np.ndarray:
    """The same scatter at every call."""
    return np.random.default_rng(0).uniform(-_SPREAD, _SPREAD, count)


def _gap(upper: float, lower: float) -> float:
    """An error bar's length; 0 where the interval is not defined."""
    gap = upper - lower
    return max(0.0, gap) if math.isfinite(gap) else 0.0
