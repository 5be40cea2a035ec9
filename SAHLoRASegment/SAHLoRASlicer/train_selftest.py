"""SAHLoRA Train's test, for Slicer (ctest, Reload and Test) and for the stand-in alike: a case from the scene, a plan, its command line, a result."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from . import case_nodes, segmentations, train_results, volumes
from .train_plan import TrainingPlan, load


class SAHLoRATrainTest(ScriptedLoadableModuleTest):
    """The parts that need Slicer; the trainings themselves are tested on the core."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        for test in (self.test_scene_case_becomes_two_files_on_one_grid, self.test_plan_is_kept_and_told, self.test_results_become_tables_and_charts):
            self.setUp()
            test()

    def test_scene_case_becomes_two_files_on_one_grid(self) -> None:
        """Scan and segment come back from their files as they were."""
        matrix = np.diag([-0.5, -0.5, 5.0, 1.0])
        volume = volumes.volume_from_array(np.full((4, 20, 30), 40, np.int16), matrix, "CT")
        mask = np.zeros((4, 20, 30), np.uint8)
        mask[1:3, 5:12, 8:20] = 1
        segmentation, segment = segmentations.add_segment(mask, volume)
        with case_nodes.case_files(volume, segmentation, segment) as (image, label):
            found, place = volumes.read_array(label)
            self.assertTrue((found == mask).all())
            self.assertTrue(np.allclose(place, volumes.read_array(image)[1]))
            self.assertTrue(np.allclose(place, matrix))

    def test_plan_is_kept_and_told(self) -> None:
        """What Resume finds is what Train saved, and the command line says the same."""
        with tempfile.TemporaryDirectory() as folder:
            plan = TrainingPlan(cases="cases", base="base.safetensors", name="mine", output=folder)
            plan.save()
            kept: Any = load(Path(folder))
            self.assertEqual(kept, (plan, "started"))
            self.assertIn("--adapter.method=cp-lora", plan.command_line("python", windows=False))

    def test_results_become_tables_and_charts(self) -> None:
        """Worst first, and a table and three charts in the scene."""
        with tempfile.TemporaryDirectory() as folder:
            rows = "patient,stratum,dice,annotated_ml,predicted_ml\na,small,0.8,10,11\nb,large,0.3,30,12\n"
            (Path(folder) / "evaluation_patients.csv").write_text(rows)
            results: Any = train_results.read_results(Path(folder))
            self.assertEqual([row["patient"] for row in results.patients], ["b", "a"])
            train_results.ResultNodes().show(results)
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLPlotChartNode")), 3)
