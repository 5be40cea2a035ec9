"""Reports: what they link to is there, and what they say is in the tables."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.image import imread
from SAHLoRALib.cli import main
from SAHLoRALib.report import evaluation_table
from tiny_cohort import flags, save_cohort, save_tiny_base, whole_study


def links(report: Path) -> list[Path]:
    """What a Markdown file links to, none of it absolute."""
    found = [unquote(target) for target in re.findall(r"\]\(([^)]+)\)", report.read_text(encoding="utf-8"))]
    assert found and not any("://" in target or target.startswith("/") for target in found)
    return [report.parent / target for target in found]


def tables(report: Path) -> list[list[list[str]]]:
    """The Markdown tables: rows of cells."""
    found: list[list[list[str]]] = []
    inside = False
    for line in report.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        inside = line.startswith("|")
    return found


def test_report_of_a_study_opens_with_all_its_links_and_pictures() -> None:
    config, result = whole_study()
    assert result.report == config.output / "report.md"
    targets = links(result.report)
    assert all(target.exists() for target in targets)
    pictures = {target.name for target in targets if target.suffix == ".png"}
    assert pictures == {
        "dice_by_method.png", "dice_against_volume.png", "dice_against_parameters.png", "predicted_against_annotated.png", "bland_altman.png"
    }  # fmt: skip
    for target in targets:
        if target.suffix == ".png":
            picture = imread(target)
            assert min(picture.shape[:2]) > 200 and picture.std() > 0.01
    assert {"results.csv", "methods.csv", "comparison.csv", "claims.csv", "folds.json", "study.json", "predictions"} <= {t.name for t in targets}


def test_report_of_a_study_says_what_the_tables_hold() -> None:
    _, result = whole_study()
    assert result.tables is not None and result.report is not None
    found = tables(result.report)
    assert all(len({len(row) for row in table}) == 1 for table in found)
    claims, methods, comparison, runs = found
    assert [row[0][0] for row in claims[2:]] == list("12345")
    assert [row[1].strip("*") for row in claims[2:]] == [claim.verdict for claim in result.tables.claims]
    assert [row[0].removesuffix(" (over-parameterised)") for row in methods[2:]] == list(result.tables.methods["label"])
    assert len(comparison) == len(methods) - 1 and len(runs) == 2 + len(result.runs)
    rows = result.tables.comparison
    more = sum((low > 0 or high < 0) and not p < 0.05 for low, high, p in zip(rows["low"], rows["high"], rows["p_holm"], strict=True))
    assert more > 0, "the cohort is to have such rows"
    text = result.report.read_text(encoding="utf-8")
    assert f"not corrected for the number of comparisons as p (Holm) is: where it leaves 0 out while p (Holm) is 0.05 or more, as in {more} " in text
    assert "not a medical device" in text and "9 scans of 9 patients" in text and "## Against fine-tuning all" in text
    assert "Not finished" not in text


def test_report_of_a_training_opens_with_all_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "models"))
    cases, base = save_cohort(tmp_path / "cases", (2, 4, 5, 6, 7, 0)), save_tiny_base(tmp_path)
    words = ["train", str(cases), "--name", "mine", "--run", str(tmp_path / "work"), "--base", str(base.path), "--folds", "2", *flags()]
    assert main(words) == 0
    report = tmp_path / "work" / "report.md"
    targets = links(report)
    assert all(target.exists() for target in targets)
    assert {"training.png", "bland_altman.png", "evaluation_patients.csv", "predictions"} <= {target.name for target in targets}
    summary, gained, folds = tables(report)
    assert "without haemorrhage (n = 1)" in summary[0] and "all (n = 6)" in summary[0] and len(folds) == 4
    assert gained[0] == summary[0] and sum(row[0].endswith("after − before") for row in gained) == 3
    told = report.read_text(encoding="utf-8")
    assert re.search(r"Training of a fold: learning rate [\d.]+, steps \d+, batch", told) and "epochs" not in told, "steps ruled, not the epochs"
    assert "Trained without cross-validation" not in report.read_text(encoding="utf-8")


def test_table_of_an_evaluation_has_a_row_for_every_measure_and_a_column_for_every_stratum() -> None:
    _, result = whole_study()
    assert result.tables is not None
    lines = evaluation_table(result.tables.evaluations["zero-shot"])
    assert lines[0].count("(n = ") == 4 and any(line.startswith("| ICC of the volumes") for line in lines)
    assert next(line for line in lines if line.startswith("| Dice |")).count(" to ") == 4
