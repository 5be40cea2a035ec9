"""The panel as a user finds it: what is chosen, what can be pressed and why not. Qt is the stand-in, MRML is Slicer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util


def test_segment_button_says_why_it_is_disabled(panel: Any, module: Any) -> None:
    assert not panel.ui.segmentButton.enabled
    assert "Select a head CT" in panel.ui.segmentButton.toolTip
    assert not panel.ui.editButton.enabled and "Check volumes" in panel.ui.batchButton.toolTip


def test_without_a_model_the_panel_says_where_to_put_one(panel: Any, sample: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from SAHLoRASlicer import models

    monkeypatch.setattr(models, "model_folders", lambda: [tmp_path])
    panel.initializeParameterNode()
    assert not panel.ui.segmentButton.enabled and "No model is there" in panel.ui.segmentButton.toolTip


def test_model_line_says_what_the_choice_is(ready: Any) -> None:
    assert ready.ui.modelComboBox.currentText == "tiny"
    assert "Untrained." in ready.ui.modelLabel.text and "not measured" in ready.ui.modelLabel.text


def test_adapters_are_offered_with_their_own_base_only(panel: Any, model_folder: Path, sample: Any) -> None:
    from SAHLoRALib.adapters import AdapterConfig, attach
    from SAHLoRALib.network import MultiViewUnet, NetworkConfig
    from SAHLoRALib.slices import PixelGrid
    from SAHLoRALib.weights import load_network, read_info, save_adapter, save_base

    info = read_info(model_folder / "tiny.safetensors")
    network, _ = load_network(info)
    config = AdapterConfig(rank=1)
    attach(network, config)
    made = [model_folder / "asah.safetensors", model_folder / "other.safetensors"]
    save_adapter(network, config, made[0], base=info, training={"lesion": "subarachnoid"})
    save_base(MultiViewUnet(NetworkConfig(levels=2, width=5)), made[1], grid=PixelGrid())
    try:
        panel.initializeParameterNode()
        panel.picker.choose("tiny", "asah")
        panel.onModelChosen()
        assert panel._parameterNode.adapter == "asah" and "An adapter (cp-lora, rank 1) of tiny" in panel.ui.modelLabel.text
        assert "Subarachnoid space" in panel.settings().terminology
        panel.ui.modelComboBox.setCurrentIndex(panel.ui.modelComboBox.findData("other"))
        assert panel.ui.adapterComboBox.findData("asah") < 0 and panel._parameterNode.adapter == "none"
    finally:
        for path in made:
            path.unlink()


def test_where_nothing_is_chosen_the_models_are_those_of_the_command_line(
    module: Any, scene: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SAHLoRALib.model_folders import bundled_folders
    from SAHLoRALib.segmenter import DEFAULT_ADAPTER, DEFAULT_MODEL
    from SAHLoRASlicer import models
    from standin import application

    (model_folder / "a-first.safetensors").write_bytes((model_folder / "tiny.safetensors").read_bytes())
    monkeypatch.setattr(models, "model_folders", lambda: [model_folder, *bundled_folders()])
    panel = application.make_widget(module)
    try:
        panel.initializeParameterNode()
        assert (panel.picker.model_name, panel.picker.adapter_name) == (DEFAULT_MODEL, DEFAULT_ADAPTER)
        panel.ui.adapterComboBox.setCurrentIndex(panel.ui.adapterComboBox.findData("asah-cp-lora"))
        panel.picker.refresh(panel._parameterNode.model, panel._parameterNode.adapter)
        assert Path(panel.settings().adapter).stem == panel.picker.adapter_name == "asah-cp-lora"  # a choice stays
        panel.picker.choose("a-first", "")
        assert panel.picker.adapter_name == "none"
    finally:
        panel.cleanup()
        (model_folder / "a-first.safetensors").unlink()


def test_output_segmentation_that_takes_no_mask_is_told_before_the_run(ready: Any) -> None:
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "RTSTRUCT")
    ready._parameterNode.outputSegmentation = chosen
    ready.refresh()
    assert ready.ui.segmentButton.enabled, ready.ui.segmentButton.toolTip
    chosen.GetSegmentation().SetSourceRepresentationName("Planar contour")
    ready.refresh()
    assert not ready.ui.segmentButton.enabled
    assert "RTSTRUCT" in ready.ui.segmentButton.toolTip and "New segmentation" in ready.ui.segmentButton.toolTip
    ready._parameterNode.outputSegmentation = None
    ready.refresh()
    assert ready.ui.segmentButton.enabled


def test_nodes_that_come_while_another_module_is_shown_cost_nothing(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer import dependencies

    seen, refresh = [], ready.logic.usableVolumes
    monkeypatch.setattr(ready.logic, "usableVolumes", lambda: seen.append(1) or refresh())
    monkeypatch.setattr(dependencies, "missing_packages", lambda path: seen.append(path) or [])
    ready.exit()
    monkeypatch.setattr(ready.parent, "_entered", False)  # what Slicer's parent says of isEntered then
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode"))
    assert seen == []
    monkeypatch.setattr(ready.parent, "_entered", True)
    ready.enter()
    assert seen
    seen.clear()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")
    assert seen == [1], "the list of volumes anew, the packages not"


def test_declined_installation_leaves_the_panel_usable(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAHLoRASlicer import dependencies

    def decline(path: Path, log: Any) -> None:
        raise dependencies.Missing("PyTorch was not installed, and nothing can be segmented without it.")

    monkeypatch.setattr(dependencies, "ensure", decline)
    ready.ui.segmentButton.click()
    assert not ready.logic.running and ready.ui.segmentButton.enabled
    assert "PyTorch was not installed" in ready.ui.statusLabel.text


def test_misspelt_signals_and_calls_of_properties_raise_in_the_stand_in(panel: Any) -> None:
    with pytest.raises(AttributeError, match="no signal"):
        panel.ui.segmentButton.connect("clickd(bool)", panel.onSegment)
    with pytest.raises(TypeError):
        panel.ui.segmentButton.text()
    with pytest.raises(AttributeError):
        panel.ui.segmentButton.toolTipp = "x"


def test_a_label_map_that_comes_first_is_not_taken_for_the_scan(panel: Any) -> None:
    import slicer

    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mask")
    hu = np.full((4, 8, 8), 30, np.int16)
    from SAHLoRASlicer import volumes

    scan = volumes.volume_from_array(hu, np.eye(4), "CT")
    panel.initializeParameterNode()
    assert panel._parameterNode.inputVolume is scan


def test_a_scene_that_comes_in_while_the_panel_is_shown_is_followed(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    panel.setParameterNode(None)
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.EndImportEvent)
    assert panel._parameterNode is not None


def test_a_copy_of_an_older_sample_is_not_taken_for_this_one(module: Any, scene: Any) -> None:
    import hashlib

    import SampleData
    from SAHLoRASlicer import samples

    module.registerSampleData()
    told = SampleData.sources[samples.NAME]["checksums"]
    assert told == "SHA256:" + hashlib.sha256(samples.sample_file().read_bytes()).hexdigest()
