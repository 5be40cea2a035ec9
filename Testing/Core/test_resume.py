"""A training that was cancelled, killed or cut off goes on where it stopped, to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from SAHLoRALib.checkpoint import FILE_NAME, read_checkpoint, write_checkpoint
from SAHLoRALib.errors import Cancelled, ConfigError, ModelError
from SAHLoRALib.samples import SliceCache
from SAHLoRALib.training import fit
from small_training import GRID, SMALL, WAYS, CancelAt, Recorder, based, same, state


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_cancelled_training_resumes_to_the_weights_of_an_uninterrupted_one(way, stop, tmp_path, train, validation, base):
    config = replace(SMALL, **WAYS[way])
    whole = fit(config, train, validation, based(config, base), tmp_path / "whole")
    with pytest.raises(Cancelled, match=f"step {stop} of 7|Cancelled"):
        fit(config, train, validation, based(config, base), tmp_path / "parts", CancelAt(stop))
    assert read_checkpoint(tmp_path / "parts")[1]["step"] == stop
    resumed = fit(config, train, validation, based(config, base), tmp_path / "parts")
    assert same(state(whole), state(resumed))
    told = [[{k: v for k, v in entry.items() if k != "seconds"} for entry in r.history] for r in (whole, resumed)]
    assert told[0] == told[1] and (whole.best_step, whole.threshold) == (resumed.best_step, resumed.threshold)


def test_a_crash_costs_the_steps_since_the_last_checkpoint_and_nothing_else(tmp_path, train, validation):
    whole = fit(SMALL, train, validation, folder=tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(SMALL, train, validation, folder=tmp_path / "parts", events=CancelAt(5, crash=True))
    assert read_checkpoint(tmp_path / "parts")[1]["step"] == 3  # the end of the first epoch
    assert same(state(whole), state(fit(SMALL, train, validation, folder=tmp_path / "parts")))


def test_checkpoints_come_by_the_clock_too(tmp_path, train):
    config = replace(SMALL, checkpoint_seconds=0.0)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(config, train, folder=tmp_path, events=CancelAt(6, crash=True))
    assert read_checkpoint(tmp_path)[1]["step"] == 5


def test_a_finished_training_is_not_run_again(tmp_path, train, validation):
    first = fit(SMALL, train, validation, folder=tmp_path)
    events = Recorder()
    again = fit(SMALL, train, validation, folder=tmp_path, events=events)
    assert same(state(first), state(again))
    assert not [e for e in events.events if e["event"] == "metric"]


def test_a_training_is_not_gone_on_with_when_a_mask_was_mirrored(tmp_path, train):
    fit(SMALL, train, folder=tmp_path)
    mirrored = SliceCache([replace(case, blood=case.blood.flip(2)) for case in train.cases], train.grid)
    assert mirrored.fingerprint() == train.fingerprint()  # as much blood on every slice
    with pytest.raises(ConfigError, match="training masks"):
        fit(SMALL, mirrored, folder=tmp_path)


def test_a_checkpoint_that_does_not_tell_the_masks_is_gone_on_with(tmp_path, train):
    first = fit(SMALL, train, folder=tmp_path)
    tensors, content = read_checkpoint(tmp_path)
    told = {name: value for name, value in content["identity"].items() if not name.endswith("masks")}
    write_checkpoint(tmp_path, tensors, {**content, "identity": told})
    assert same(state(first), state(fit(SMALL, train, folder=tmp_path)))


def test_resume_can_be_declined(tmp_path, train):
    fit(SMALL, train, folder=tmp_path)
    events = Recorder()
    fit(replace(SMALL, learning_rate=1e-2), train, folder=tmp_path, events=events, resume=False)
    assert sum(e["event"] == "metric" for e in events.events) == 7


def test_a_checkpoint_of_another_configuration_is_refused_by_name_of_the_setting(tmp_path, train, validation, base):
    fit(SMALL, train, validation, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.003, and is 0\.01 now"):
        fit(replace(SMALL, learning_rate=0.01), train, validation, folder=tmp_path)
    with pytest.raises(ConfigError, match="strategy was scratch"):
        fit(replace(SMALL, strategy="head"), train, validation, base, tmp_path)
    with pytest.raises(ConfigError, match="training cases"):
        fit(SMALL, SliceCache(train.cases[:2], GRID), validation, folder=tmp_path)
    fit(replace(SMALL, checkpoint_seconds=5.0), train, validation, folder=tmp_path)  # how, not what


def test_a_damaged_checkpoint_is_told(tmp_path, train):
    fit(SMALL, train, folder=tmp_path)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        fit(SMALL, train, folder=tmp_path)


def test_training_leaves_nothing_but_its_checkpoint(tmp_path, train):
    fit(SMALL, train, folder=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} - {".lock"} == {FILE_NAME}  # the lock that `files.alone` takes stays, empty
