"""Where a trained model goes: over no other model, and in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest
from SAHLoRALib.cli import main
from SAHLoRALib.errors import ConfigError
from SAHLoRALib.targets import model_target
from SAHLoRALib.weights import read_info
from tiny_cohort import flags, save_cohort, save_tiny_base

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of bundled models, with tbi-base in it; the user's own folder is empty."""
    monkeypatch.setenv("SAHLORA_MODELS", str(tmp_path / "own"))
    monkeypatch.setattr("SAHLoRALib.catalogue.bundled_folders", lambda: [tmp_path / "shipped"])
    monkeypatch.setattr("SAHLoRALib.targets.bundled_folders", lambda: [tmp_path / "shipped"])
    save_tiny_base(tmp_path / "shipped", "tbi-base")
    return tmp_path / "shipped"


def test_a_bundled_name_is_refused_in_the_users_folder_also_when_that_is_named(shipped: Path, tmp_path: Path) -> None:
    for folder in (None, tmp_path / "own"):
        with pytest.raises(ConfigError, match="comes with SAHLoRA"):
            model_target(folder, "tbi-base")
    assert model_target(None, "mine") == tmp_path / "own" / "mine.safetensors"


def test_a_bundled_name_is_taken_where_a_folder_is_named(shipped: Path, tmp_path: Path) -> None:
    assert model_target(tmp_path / "new", "tbi-base") == tmp_path / "new" / "tbi-base.safetensors"
    assert model_target(shipped, "asah") == shipped / "asah.safetensors"


@pytest.mark.parametrize("command", ["pretrain", "train"])
def test_the_commands_refuse_a_bundled_name_before_they_read_a_case(command: str, shipped: Path, tmp_path: Path, capsys: Capture) -> None:
    kept = (shipped / "tbi-base.safetensors").read_bytes()
    words = [command, str(tmp_path / "no.csv"), "--name", "tbi-base", *flags(), *(["--folds", "0"] if command == "train" else [])]
    assert main(words) == 2 and "comes with SAHLoRA" in capsys.readouterr().err
    assert main([*words, "--folder", str(shipped)]) == 2 and "already" in capsys.readouterr().err
    assert (shipped / "tbi-base.safetensors").read_bytes() == kept and not (tmp_path / "own").exists()


def test_a_finished_checkpoint_does_not_overwrite_another_trainings_model(shipped: Path, tmp_path: Path, capsys: Capture) -> None:
    cases = save_cohort(tmp_path / "cases", (4, 5, 6))
    words = ["train", str(cases), "--folds", "0", "--run", str(tmp_path / "run"), "--folder", str(tmp_path / "new"), *flags()]
    assert main([*words, "--name", "mine", "--validation-share", "0"]) == 0
    mine = read_info(tmp_path / "new" / "mine.safetensors")
    # The run folder holds this training's checkpoint, but the file under the name is another's.
    save_tiny_base(tmp_path / "new", "theirs", 40.0)
    assert main([*words, "--name", "theirs", "--validation-share", "0"]) == 2 and "of another training" in capsys.readouterr().err
    # The same command again is the same model.
    assert main([*words, "--name", "mine", "--validation-share", "0"]) == 0
    assert read_info(mine.path).digest == mine.digest


def test_the_bundled_models_chain_runs_into_a_folder_of_its_own(shipped: Path, tmp_path: Path, capsys: Capture) -> None:
    """pretrain → train → card, as the cards of the bundled models show it."""
    kept = (shipped / "tbi-base.safetensors").read_bytes()
    cohorts = (("a", (3, 4, 5)), ("b", (4, 6)), ("c", (5, 7)))
    train, judge, unseen = (save_cohort(tmp_path / name, sizes, [f"{name}{n}" for n in range(len(sizes))]) for name, sizes in cohorts)
    new = tmp_path / "new"
    common = ["--validation", str(judge), "--folder", str(new), "--licence", "Apache-2.0", "--augmentation.kind", "both"]
    common += ["--augmentation.strength", "0.5", "--augmentation.geometry", "0.75", *flags()]
    base = ["pretrain", str(train), "--name", "tbi-base", "--run", str(tmp_path / "r1"), "--grid.pixel-mm", "5", "--description", "A base."]
    assert main([*base, *common]) == 0
    adapter = ["train", str(train), "--name", "asah", "--run", str(tmp_path / "r2"), "--base", str(new / "tbi-base.safetensors"), "--folds", "0"]
    assert main([*adapter, *common, "--adapter.rank", "2", "--adapter.norm", "affine", "--lesion", "subarachnoid"]) == 0
    (tmp_path / "how.txt").write_text("sahlora train …", encoding="utf-8")
    card = ["card", str(new / "asah.safetensors"), "--cases", str(unseen), "--title", "Unseen heads", "--commands", str(tmp_path / "how.txt")]
    assert main(card) == 0
    text = (new / "asah.md").read_text(encoding="utf-8")
    assert (
        "augmentation both of strength 0.5 (rotation, zoom and deformation 0.75), seed" in text
        and "licence: Apache-2.0" in text
        and "## Unseen heads" in text
        and "sahlora train …" in text
    )
    assert "annotated: subarachnoid haemorrhage" in text
    made, adapted = read_info(new / "tbi-base.safetensors"), read_info(new / "asah.safetensors")
    assert (adapted.base_digest, adapted.base_name) == (made.digest, "tbi-base") and made.description == "A base."
    assert adapted.training["lesion"] == "subarachnoid" and "lesion" not in made.training, "nothing is written that was not said"
    assert (shipped / "tbi-base.safetensors").read_bytes() == kept and not (tmp_path / "own").exists()
