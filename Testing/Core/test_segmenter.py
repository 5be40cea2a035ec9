"""From a scan to its mask and report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from SAHLoRALib import slices
from SAHLoRALib.catalogue import Catalogue
from SAHLoRALib.ct import CTVolume, ct_from_image, read_ct, write_segmentation
from SAHLoRALib.errors import Cancelled, ConfigError, ModelError
from SAHLoRALib.events import Events
from SAHLoRALib.findings import bounding_box, extent_mm, slice_findings, tidied
from SAHLoRALib.model_folders import bundled_folders
from SAHLoRALib.network import MultiViewUnet
from SAHLoRALib.segmenter import DEFAULT_ADAPTER, DEFAULT_MODEL, NONE, SegmentConfig, Segmenter, choose_models
from SAHLoRALib.slices import intracranial, volume_ml
from SAHLoRALib.weights import ModelInfo, load_network, save_base
from tiny_scans import BLEED, GRID, SPACING, VOXEL_ML, box, bright_network, head, image, random_network, save_models, save_scan

EXACT = SegmentConfig(precision="float32", device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    return save_base(bright_network(), tmp_path_factory.mktemp("models") / "bright.safetensors", grid=GRID)


@pytest.fixture(scope="module")
def bleeding() -> CTVolume:
    return ct_from_image(image(head(BLEED)))


def segmenter(base: ModelInfo, network: MultiViewUnet | None = None, **settings: object) -> Segmenter:
    return Segmenter(network or bright_network(), base, None, replace(EXACT, **settings))


def test_blood_is_found_where_it_is_and_measured(base: ModelInfo, bleeding: CTVolume) -> None:
    found = segmenter(base).segment(bleeding)
    assert np.array_equal(found.mask, box(BLEED))
    report = found.report
    assert report.total_ml == pytest.approx(90 * VOXEL_ML)
    assert [piece.ml for piece in report.components] == [pytest.approx(90 * VOXEL_ML)]
    assert report.components[0].slices == (9, 11)
    middle = np.array([8 + 1, 36 + 2.5, 34 + 2])
    assert report.components[0].centre_lps_mm == pytest.approx(tuple((middle * SPACING)[::-1] + np.array([-80.0, -100.0, 30.0])))
    assert [s.slice for s in report.slices] == [9, 10, 11] and report.slices[0].area_cm2 == pytest.approx(30 * 6.25 / 100)
    assert report.slices[0].z_mm == pytest.approx(30 + 8 * SPACING[0]) and report.slices[0].ml == pytest.approx(30 * VOXEL_ML)
    assert report.extent_mm == pytest.approx((5 * 2.5, 6 * 2.5, 3 * 8.0))
    assert found.probability is None


def test_report_says_with_what_it_was_made_and_is_plain_json(base: ModelInfo, bleeding: CTVolume) -> None:
    told = json.loads(json.dumps(segmenter(base, smallest_ml=0.2).segment(bleeding).report.as_dict(), allow_nan=False))
    assert told["model"] == {"name": "bright", "kind": "base", "digest": base.digest} and told["adapter"] is None
    assert (told["threshold"], told["smallest_ml"], told["pixel_mm"], told["precision"], told["device"]) == (0.5, 0.2, 2.5, "float32", "cpu")
    assert "float32" in told["computing"] and told["shape"] == [18, 80, 64] and told["seconds"] >= 0


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.nii.gz"])
def test_mask_has_exactly_the_geometry_of_an_oddly_stored_scan(base: ModelInfo, tmp_path: Path, name: str) -> None:
    """Stored sagittal with flipped axes and slightly oblique: the mask lies on the file's own grid, voxel on voxel."""
    axial = image(head(BLEED))
    odd = sitk.Flip(sitk.PermuteAxes(axial, [1, 2, 0]), [True, False, True])
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.05, 0.0, 0.1)
    odd.SetDirection((np.array(turn.GetMatrix()).reshape(3, 3) @ np.array(odd.GetDirection()).reshape(3, 3)).ravel())
    sitk.WriteImage(odd, str(tmp_path / name))
    ct = read_ct(tmp_path / name)
    write_segmentation(segmenter(base).segment(ct).mask, ct, tmp_path / f"mask_{name}")
    scan, mask = sitk.ReadImage(str(tmp_path / name)), sitk.ReadImage(str(tmp_path / f"mask_{name}"))
    assert mask.GetSize() == scan.GetSize()
    for part in ("GetOrigin", "GetSpacing", "GetDirection"):  # NIfTI keeps directions as a float32 quaternion
        assert getattr(mask, part)() == pytest.approx(getattr(scan, part)(), abs=1e-9 if name.endswith("nrrd") else 1e-6)
    truth = sitk.Flip(sitk.PermuteAxes(image(box(BLEED).astype(np.uint8)), [1, 2, 0]), [True, False, True])
    assert np.array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(truth))


def test_slice_index_follows_the_files_own_order(base: ModelInfo) -> None:
    upside_down = sitk.Flip(image(head(BLEED)), [False, False, True])
    findings = segmenter(base).segment(ct_from_image(upside_down)).report.slices
    assert [(s.slice, s.index) for s in findings] == [(9, 9), (10, 8), (11, 7)]


def test_report_volume_equals_mask_volume_with_uneven_gaps_and_tilt(base: ModelInfo, bleeding: CTVolume) -> None:
    z = np.cumsum([0.0] + [4.0] * 9 + [7.5] * 8)
    positions = bleeding.positions[0] + z[:, None] * np.array([0.0, np.tan(np.radians(18.5)), 1.0])
    ct = replace(bleeding, positions=positions)
    found = segmenter(base).segment(ct)
    by_hand = sum(found.mask[k].sum() * 2.5 * 2.5 * t / 1000 for k, t in enumerate(ct.slice_thicknesses))
    assert found.report.total_ml == pytest.approx(by_hand) and found.report.total_ml == pytest.approx(volume_ml(found.mask, ct))
    assert sum(s.ml for s in found.report.slices) == pytest.approx(found.report.total_ml)
    assert sum(c.ml for c in found.report.components) == pytest.approx(found.report.total_ml)
    assert by_hand != pytest.approx(90 * VOXEL_ML)
    assert found.report.tilt_degrees == pytest.approx(18.5) and found.report.gaps_mm == pytest.approx((4.0, 7.5))


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_chunks_give_the_result_of_one_go(base: ModelInfo, bleeding: CTVolume, batch: int) -> None:
    reference = segmenter(base, random_network(), threshold=0.5, smallest_ml=0.0).segment(bleeding, keep_probability=True)
    found = segmenter(base, random_network(), threshold=0.5, smallest_ml=0.0, batch=batch).segment(bleeding, keep_probability=True)
    assert reference.probability is not None and found.probability is not None
    assert 0 < reference.probability.max() < 1
    assert np.abs(reference.probability.astype(float) - found.probability).max() < 1e-3
    assert (reference.mask != found.mask).mean() < 1e-4


def test_the_brains_window_gives_the_result_of_the_heads(base: ModelInfo, bleeding: CTVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pixels' raster lies elsewhere."""
    small = segmenter(base).segment(bleeding)
    monkeypatch.setattr(slices, "brain_window", lambda ct, inside, head: replace(head, slices=tuple(k for k in head.slices if inside[k].any())))
    large = segmenter(base).segment(bleeding)
    both = (small.mask & large.mask).sum()
    assert 2 * both / (small.mask.sum() + large.mask.sum()) > 0.95
    assert small.report.total_ml == pytest.approx(large.report.total_ml, rel=0.05)


def test_with_flips_a_mirrored_scan_gives_the_mirrored_result(base: ModelInfo) -> None:
    """The head's window is symmetrical and a multiple of the network's pixels here, so nothing but the network can break the symmetry."""
    array = head(BLEED)
    array[:, :, 32:] = np.where(array[:, :, 32:] > -500, array[:, :, 32:], array[:, :, 31::-1])
    plain, mirrored = (ct_from_image(image(a)) for a in (array, np.ascontiguousarray(array[:, :, ::-1])))

    network = bright_network()
    with torch.no_grad():  # it looks at the pixel to the left of each
        network.stem[0][0].weight[0, 0, 1] = torch.tensor([1.0, 0.0, 0.0])

    def difference(flips: bool) -> float:
        run = segmenter(base, network, flips=flips)
        a, b = (run.segment(ct, keep_probability=True).probability for ct in (plain, mirrored))
        assert a is not None and b is not None
        both = intracranial(plain) & intracranial(mirrored)[:, :, ::-1]
        return float(np.abs(a.astype(float) - b[:, :, ::-1])[both].max())

    assert difference(flips=True) < 2e-3 < 0.3 < difference(flips=False)


def under_bone(slices: int, hu: float, free: int = 0) -> tuple[np.ndarray, CTVolume]:
    """A piece of 10 × 10 voxels of `hu` on each of some slices, the vault's bone above it but for `free` of its columns, and its scan."""
    array = head()
    piece = np.zeros(array.shape, bool)
    for k in range(8, 8 + slices):  # follows the vault's slant: each slice's part lies ten rows behind that of the slice below
        rows = slice(20 + 10 * (k - 8), 30 + 10 * (k - 8))
        piece[k, rows, 20:30] = True
        array[k + 1, rows, 20 : 30 - free] = 1000
    array[piece] = hu
    return piece, ct_from_image(image(array))


@pytest.mark.parametrize(
    ("slices", "hu", "free", "stays"),
    [
        (1, 90, 0, False),
        (1, 60, 0, False),
        (2, 90, 1, False),
        (4, 60, 1, False),  # thin slices: a rim over several of them
        (1, 90, 2, True),
        (4, 60, 2, True),  # a thin subdural beside the slant
        (4, 90, 4, True),
    ],
)
def test_a_bright_rim_below_the_slanted_vault_goes_and_a_thin_subdural_beside_it_stays(slices: int, hu: float, free: int, stays: bool) -> None:
    piece, ct = under_bone(slices, hu, free)
    kept, pieces = tidied(piece, ct, 0.0)
    assert np.array_equal(kept, piece if stays else np.zeros_like(piece)) and len(pieces) == stays


def test_nothing_is_drawn_outside_the_skull(base: ModelInfo) -> None:
    """A scalp haematoma is as bright as blood in the brain."""
    array = head(BLEED)
    scalp = np.zeros(array.shape, bool)
    scalp[7:11, 70:78, 28:36] = (array > -200)[7:11, 70:78, 28:36] & (array < 200)[7:11, 70:78, 28:36]
    array[scalp] = 65
    assert scalp.sum() > 20
    found = segmenter(base).segment(ct_from_image(image(array)), keep_probability=True)
    assert np.array_equal(found.mask, box(BLEED))
    assert found.probability is not None and found.probability.dtype == np.float16 and not found.probability[scalp].any()


def test_an_inside_that_is_far_smaller_than_the_skull_is_told(base: ModelInfo, bleeding: CTVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(ct: CTVolume) -> np.ndarray:
        inside = intracranial(ct)
        inside[6:] = False
        return inside

    assert segmenter(base).segment(bleeding).report.warnings == bleeding.warnings
    monkeypatch.setattr(slices, "intracranial", lost)
    [told] = segmenter(base).segment(bleeding).report.warnings[len(bleeding.warnings) :]
    assert told.startswith("Only 0% of what the bone") and "look at the mask with care" in told


@pytest.mark.parametrize(("offset", "told"), [(-24, True), (-8, False), (8, False), (24, True)])
def test_brain_at_unusual_hu_is_told_and_the_scan_stays_as_it_is(base: ModelInfo, offset: int, told: bool) -> None:
    ct = ct_from_image(image(head() + np.int16(offset)))
    before = ct.hu.copy()
    warnings = segmenter(base).segment(ct).report.warnings[len(ct.warnings) :]
    assert len(warnings) == told and all(f"Brain lies at {32 + offset} HU" in w and "rescale intercept" in w for w in warnings)
    assert np.array_equal(ct.hu, before)


def test_scan_without_a_skull_is_segmented_with_a_warning(base: ModelInfo) -> None:
    array = head(BLEED)
    array[array > 200] = 32
    report = segmenter(base).segment(ct_from_image(image(array), check=False)).report
    assert any("No skull" in warning for warning in report.warnings) and report.total_ml == pytest.approx(90 * VOXEL_ML)


def test_scan_without_blood_gives_an_empty_mask(base: ModelInfo) -> None:
    found = segmenter(base).segment(ct_from_image(image(head())))
    assert not found.mask.any() and found.report.total_ml == 0 and found.report.extent_mm is None and found.report.largest_ml == 0


def test_threshold_of_the_user_stands_over_the_models(base: ModelInfo, bleeding: CTVolume) -> None:
    """At 49 HU the network says 0.5, at 65 HU nearly 1."""
    assert segmenter(base).threshold == base.threshold == 0.5
    assert segmenter(base, threshold=0.9999).segment(bleeding).report.total_ml < 90 * VOXEL_ML


def test_specks_are_judged_by_their_true_volume(bleeding: CTVolume) -> None:
    """Two specks of four voxels; where slices lie 3 mm apart that is 0.075 mL, where they lie 9 mm apart 0.225 mL."""
    z = np.cumsum([0.0] + [3.0] * 8 + [9.0] * 9)
    ct = replace(bleeding, positions=bleeding.positions[0] + z[:, None] * np.array([0.0, 0.0, 1.0]))
    low, high = box(((3, 30, 30), (1, 2, 2))), box(((13, 30, 30), (1, 2, 2)))
    kept, pieces = tidied(low | high, ct, 0.1)
    assert np.array_equal(kept, high) and [piece.ml for piece in pieces] == [pytest.approx(0.225)]
    kept, pieces = tidied(low | high, ct, 0.075)
    assert np.array_equal(kept, low | high) and [round(piece.ml, 6) for piece in pieces] == [0.225, 0.075]
    kept, pieces = tidied(low | high, ct, 0.3)
    assert not kept.any() and pieces == ()


def test_a_piece_that_the_slices_beside_it_do_not_show_goes_unless_it_is_large_or_they_lie_far_away(bleeding: CTVolume) -> None:
    """Slices 3 mm apart below, 9 mm above: on one slice 0.08 mL, 1.2 mL; on two; and one whose neighbours are far."""
    z = np.cumsum([0.0] + [3.0] * 8 + [9.0] * 9)
    ct = replace(bleeding, positions=bleeding.positions[0] + z[:, None] * np.array([0.0, 0.0, 1.0]))
    small, large = box(((3, 20, 30), (1, 2, 2))), box(((3, 30, 30), (1, 8, 8)))
    deep, far, last = box(((5, 30, 50), (2, 2, 2))), box(((13, 30, 30), (1, 2, 2))), box(((0, 50, 30), (1, 2, 2)))
    kept, pieces = tidied(small | large | deep | far | last, ct, 0.0, 1.0)
    assert np.array_equal(kept, large | deep | far) and len(pieces) == 3
    assert np.array_equal(tidied(small | large | deep | far | last, ct, 0.0)[0], small | large | deep | far | last)
    assert np.array_equal(tidied(small | large | far, ct, 0.1, 0.05)[0], large | far)


def test_segmenting_leaves_out_small_pieces_on_one_slice_and_tells_the_limit(base: ModelInfo) -> None:
    single = ((9, 40, 44), (1, 4, 4))
    ct = ct_from_image(image(head(BLEED, single)))
    ct = replace(ct, positions=ct.positions * np.array([1.0, 1.0, 5.0 / np.diff(ct.positions[:, 2]).max()]))
    with_it, without = (segmenter(base, single_slice_ml=ml, smallest_ml=0.0).segment(ct) for ml in (0.0, 1.0))
    assert np.array_equal(with_it.mask, box(BLEED) | box(single)) and np.array_equal(without.mask, box(BLEED))
    assert segmenter(base).config.single_slice_ml == without.report.as_dict()["single_slice_ml"] == 1.0


def test_voxels_that_touch_at_a_corner_are_one_piece(bleeding: CTVolume) -> None:
    touching = box(((5, 30, 30), (1, 1, 1))) | box(((6, 31, 31), (1, 1, 1)))
    apart = box(((5, 30, 30), (1, 1, 1))) | box(((6, 32, 31), (1, 1, 1)))
    assert len(tidied(touching, bleeding, 0.0)[1]) == 1 and len(tidied(apart, bleeding, 0.0)[1]) == 2


def test_empty_mask_has_no_findings(bleeding: CTVolume) -> None:
    empty = np.zeros(bleeding.shape, bool)
    assert not tidied(empty, bleeding, 0.0)[0].any() and tidied(empty, bleeding, 0.0)[1] == ()
    assert bounding_box(empty) is None and extent_mm(empty, bleeding) is None and slice_findings(empty, bleeding) == ()


def test_a_thin_scan_shows_the_network_half_of_its_slices_and_keeps_its_result(base: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    thin = sitk.GetImageFromArray(np.repeat(head(BLEED, noise=0.0), 16, axis=0))
    thin.SetSpacing((*SPACING[:0:-1], 0.5))
    ct, counts, masks = ct_from_image(thin), [], []
    for step in (0.0, slices.STEP_MM):
        monkeypatch.setattr(slices, "STEP_MM", step)
        run, seen = segmenter(base), []
        whole = run._probabilities
        monkeypatch.setattr(run, "_probabilities", lambda x, whole=whole, seen=seen: seen.append(len(x)) or whole(x))
        masks.append(run.segment(ct).mask[112:192, 32:46, 30:43])  # around the bleed: the boxy skull's own edge is another matter
        counts.append(sum(seen))
    plain, sparse = masks
    assert 0.5 * counts[0] <= counts[1] < 0.6 * counts[0]
    assert plain.sum() == pytest.approx(90 * 16, rel=0.1) and sparse.sum() == pytest.approx(plain.sum(), rel=0.03)
    assert 2 * (plain & sparse).sum() > 0.97 * (plain.sum() + sparse.sum())


@pytest.mark.parametrize(
    "told",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    ],
    ids=["CUDA", "Linux", "Windows"],
)
def test_memory_that_does_not_suffice_makes_the_batch_smaller(
    base: ModelInfo, bleeding: CTVolume, monkeypatch: pytest.MonkeyPatch, told: Exception
) -> None:
    run = segmenter(base)
    whole = run._probabilities
    sizes: list[int] = []

    def tight(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 3:
            raise told
        return whole(x)

    monkeypatch.setattr(run, "_probabilities", tight)
    assert np.array_equal(run.segment(bleeding).mask, box(BLEED))
    assert sizes[:4] == [8, 4, 2, 2]


def test_memory_that_does_not_suffice_for_one_slice_is_told_with_advice(base: ModelInfo, bleeding: CTVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    run = segmenter(base)

    def tight(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("MPS backend out of memory")

    monkeypatch.setattr(run, "_probabilities", tight)
    with pytest.raises(ConfigError, match="does not suffice for a single slice; close other programs"):
        run.segment(bleeding)


def test_other_errors_of_the_network_are_not_taken_for_lack_of_memory(base: ModelInfo, bleeding: CTVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    run = segmenter(base)

    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(run, "_probabilities", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run.segment(bleeding)


def test_cancel_stops_between_chunks(base: ModelInfo, bleeding: CTVolume) -> None:
    class CancelAt(Events):
        seen = 0

        def _emit(self, event: str, **fields: object) -> None:
            self.seen += "slice" in str(fields.get("detail"))
            if self.seen == 2:
                self.cancel()

    events = CancelAt()
    with pytest.raises(Cancelled):
        segmenter(base, batch=2).segment(bleeding, events)
    assert events.seen == 2


def test_progress_rises_from_nothing_to_all(base: ModelInfo, bleeding: CTVolume) -> None:
    seen: list[float] = []

    class Watch(Events):
        def _emit(self, event: str, **fields: object) -> None:
            seen.append(float(str(fields["fraction"])))

    segmenter(base, batch=3).segment(bleeding, Watch())
    assert seen[0] == 0.0 and seen[-1] == 1.0 and seen == sorted(seen) and len(seen) > 5


def test_adapter_is_merged_and_named(tmp_path: Path, bleeding: CTVolume) -> None:
    base, adapter = save_models(tmp_path)
    run = Segmenter.load("", "soft", EXACT, Catalogue([tmp_path]))
    found = run.segment(bleeding, keep_probability=True)
    assert found.report.adapter == {"name": "soft", "kind": "adapter", "digest": adapter.digest, "method": "cp-lora", "rank": 1, "strength": 1.0}
    assert found.report.model["digest"] == base.digest
    by_hand = Segmenter(load_network(base, adapter)[0], base, adapter, EXACT).segment(bleeding, keep_probability=True)
    plain = Segmenter.load("tbi-base", "none", EXACT, Catalogue([tmp_path])).segment(bleeding, keep_probability=True)
    assert found.probability is not None and by_hand.probability is not None and plain.probability is not None
    assert np.array_equal(found.probability, by_hand.probability) and not np.array_equal(found.probability, plain.probability)


def test_names_of_models_lead_to_base_and_adapter(tmp_path: Path) -> None:
    base, adapter = save_models(tmp_path)
    other = save_base(random_network(), tmp_path / "other.safetensors", grid=GRID)
    catalogue = Catalogue([tmp_path])

    def names(model: str, chosen: str = "") -> tuple[str, str | None]:
        found, with_adapter = choose_models(model, chosen, catalogue)
        return found.name, with_adapter.name if with_adapter else None

    assert names("other") == ("other", None) and names("other", "none") == ("other", None)
    assert names("tbi-base", "soft") == ("tbi-base", "soft") and names("", "soft") == ("tbi-base", "soft")
    assert names("soft") == ("tbi-base", "soft") and names("tbi-base") == ("tbi-base", None)
    assert names(str(other.path)) == ("other", None) and names("", str(adapter.path)) == (base.name, adapter.name)
    with pytest.raises(ModelError, match="belongs to the base tbi-base"):
        choose_models("other", "soft", catalogue)
    with pytest.raises(ModelError, match="no model 'missing'"):
        choose_models("missing", "", catalogue)


def test_where_nothing_is_named_the_default_adapter_goes_with_the_default_model() -> None:
    bundled = Catalogue(bundled_folders())
    base, adapter = choose_models(catalogue=bundled)
    assert base.name == DEFAULT_MODEL and (adapter.name if adapter else NONE) == DEFAULT_ADAPTER
    assert choose_models(DEFAULT_MODEL, catalogue=bundled) == (base, None), "a model that is named comes as it is"
    assert choose_models("", NONE, bundled) == (base, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.0},
        {"threshold": 1.5},
        {"smallest_ml": -1.0},
        {"smallest_ml": float("nan")},
        {"single_slice_ml": -0.1},
        {"batch": 0},
        {"precision": "half"},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings)).split("_")[0]):
        SegmentConfig(**settings)  # type: ignore[arg-type]


def test_device_that_is_not_there_is_refused(base: ModelInfo) -> None:
    with pytest.raises(ConfigError, match="tpu"):
        Segmenter(bright_network(), base, None, SegmentConfig(device="tpu"))


def test_network_pixels_smaller_than_the_scans_find_the_same_blood(tmp_path: Path) -> None:
    fine = save_base(bright_network(), tmp_path / "fine.safetensors", grid=replace(GRID, pixel_mm=1.3))
    ct = read_ct(save_scan(tmp_path / "a.nii.gz", BLEED))
    mask = segmenter(fine).segment(ct).mask
    # The pixels that share bone and brain are as bright as blood to this network; inside the brain the bleed is all there is.
    assert volume_ml(mask & box(((6, 30, 20), (8, 20, 24))), ct) == pytest.approx(90 * VOXEL_ML, rel=0.15)


def test_a_network_of_numbers_that_are_none_is_refused_and_finds_no_nothing(base: ModelInfo) -> None:
    network, _ = load_network(base)
    with torch.no_grad():
        next(network.parameters()).fill_(float("inf"))
    with pytest.raises(ModelError, match="not numbers"):
        Segmenter(network, base, config=SegmentConfig(device="cpu"))
