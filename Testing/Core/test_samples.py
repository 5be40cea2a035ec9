"""The slices that training draws from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from SAHLoRALib.ct import ct_from_image
from SAHLoRALib.errors import Cancelled, CaseError
from SAHLoRALib.events import Events
from SAHLoRALib.samples import CachedCase, SliceCache
from SAHLoRALib.slices import head_window, mask_to_network, network_size, to_network
from tiny_scans import BLEED, GRID, SHAPE, box, head, image


def case(*bleeds, seed=0):
    mask = np.logical_or.reduce([box(b) for b in bleeds]) if bleeds else np.zeros(SHAPE, bool)
    return ct_from_image(image(head(*bleeds, seed=seed))), mask


def made(name, positive, count=6, rows=32, columns=24):
    """A cached case whose slices hold their own number as HU."""
    hu = torch.arange(count, dtype=torch.int16)[:, None, None].repeat(1, rows, columns)
    blood = torch.zeros(count, rows, columns, dtype=torch.uint8)
    blood[list(positive), 10:14, 10:14] = 255
    return CachedCase(name, hu, blood, torch.full((count,), 0.02, dtype=torch.float64))


def test_cached_slices_are_the_scan_on_the_networks_pixels_to_one_hu():
    ct, mask = case(BLEED)
    cached = SliceCache.read([(ct, mask)], GRID).cases[0]
    window = head_window(ct)
    rows, columns = network_size(ct, GRID, window)
    hu = to_network(ct, GRID, list(window.slices), window)[:, 0, :rows, :columns]
    assert cached.hu.dtype == torch.int16 and (cached.hu - hu).abs().max() <= 0.5
    share = mask_to_network(mask, ct, GRID, window, list(window.slices))[:, 0, :rows, :columns]
    assert (cached.blood / 255 - share).abs().max() < 0.003
    assert cached.positive.sum() == BLEED[1][0]


def test_millilitres_of_a_cached_mask_are_the_scans():
    ct, mask = case(BLEED)
    cached = SliceCache.read([(ct, mask)], GRID).cases[0]
    ml = float(cached.target.sum(dim=(1, 2)).double() @ cached.pixel_ml)
    assert ml == pytest.approx(float(mask.sum(axis=(1, 2)) @ ct.voxel_volumes_ml), rel=0.05)


def test_a_slice_with_blood_is_kept_even_where_no_head_is_found():
    ct, mask = case(((0, 2, 2), (1, 3, 3)))
    assert 0 in SliceCache.read([(ct, mask)], GRID).positives[0]


def test_objects_functions_and_pairs_are_taken_as_cases():
    class Scan:
        case = "seven"

        def read(self):
            return pair

    pair = case(BLEED)
    cache = SliceCache.read([Scan(), lambda: pair, pair], GRID)
    assert [c.name for c in cache.cases] == ["seven", "case 2", "case 3"]
    assert all(torch.equal(c.hu, cache.cases[0].hu) for c in cache.cases)


def test_a_mask_on_another_grid_is_refused_with_the_cases_name():
    ct, mask = case(BLEED)
    with pytest.raises(CaseError, match=r"case 1.*shape"):
        SliceCache.read([(ct, mask[:-1])], GRID)


def test_what_does_not_fit_in_memory_is_mapped_from_files_and_equal(tmp_path):
    pairs = [case(BLEED, seed=s) for s in range(3)]
    inside = SliceCache.read(pairs, GRID)
    one = inside.cases[0].hu.nbytes + inside.cases[0].blood.nbytes
    outside = SliceCache.read(pairs, GRID, memory_gb=1.5 * one / 1e9, spill=tmp_path / "slices")
    assert len(list((tmp_path / "slices").iterdir())) == 4  # HU and blood of two cases
    assert all(torch.equal(a.hu, b.hu) and torch.equal(a.blood, b.blood) for a, b in zip(inside.cases, outside.cases, strict=True))
    assert inside.fingerprint() == outside.fingerprint()


def test_the_fingerprint_tells_other_cases_and_other_masks():
    a, b = made("a", [0, 1]), made("a", [0, 2])
    prints = {SliceCache([a], GRID).fingerprint(), SliceCache([b], GRID).fingerprint(), SliceCache([a, b], GRID).fingerprint()}
    assert len(prints) == 3


def test_every_batch_pairs_slices_with_and_without_blood():
    cache = SliceCache([made("a", [0, 1, 2]), made("b", [5])], GRID)
    for step in range(20):
        drawn = cache.draw(seed=3, step=step, batch=4, positive_share=0.5)
        assert [bool(cache.cases[c].positive[k]) for c, k in drawn].count(True) == 2
        assert bool(cache.cases[drawn[0][0]].positive[drawn[0][1]]) != bool(cache.cases[drawn[1][0]].positive[drawn[1][1]])


def test_an_epoch_shows_every_slice_with_blood_once():
    cache = SliceCache([made("a", [0, 1, 2]), made("b", [4, 5, 1])], GRID)
    seen = [p for step in range(3) for p in cache.draw(1, step, 4, 0.5) if p in cache.positives]
    assert sorted(seen) == cache.positives
    later = [p for step in range(3, 6) for p in cache.draw(1, step, 4, 0.5) if p in cache.positives]
    assert sorted(later) == cache.positives and later != seen


def test_a_draw_depends_on_seed_and_step_only():
    cache = SliceCache([made(str(i), [1, 2, 3]) for i in range(4)], GRID)
    alone = cache.draw(7, 5, 6, 0.5)
    for step in range(5):
        cache.draw(7, step, 6, 0.5)
    assert cache.draw(7, 5, 6, 0.5) == alone
    assert cache.draw(8, 5, 6, 0.5) != alone


def test_batches_are_filled_where_every_slice_has_blood_or_none_has():
    assert len(SliceCache([made("a", range(6))], GRID).draw(0, 0, 4, 0.5)) == 4
    assert len(SliceCache([made("a", [])], GRID).draw(0, 0, 4, 0.5)) == 4


def test_slices_of_different_size_are_gathered_with_air_around_them():
    cache = SliceCache([made("a", [0]), made("b", [0], rows=40, columns=16)], GRID)
    hu, blood, sizes = cache.gather([(0, 3), (1, 5)])
    assert hu.shape == (2, 1, 40, 24) and sizes.tolist() == [[32, 24], [40, 16]]
    assert (hu[0, 0, :32] == 3).all() and (hu[0, 0, 32:] == -1024).all() and (hu[1, 0, :, 16:] == -1024).all()
    assert blood.max() <= 1


def test_without_blood_anywhere_there_is_nothing_to_train_on():
    with pytest.raises(CaseError, match="None of the 1 training cases has blood"):
        SliceCache([made("a", [])], GRID).require_blood()
    with pytest.raises(CaseError, match="no cases"):
        SliceCache([], GRID).require_blood()


def test_reading_stops_when_asked():
    events = Events()
    events.cancel()
    with pytest.raises(Cancelled):
        SliceCache.read([case(BLEED)], GRID, events=events)


def test_drawn_by_case_every_bleeding_case_comes_as_often_and_shows_all_its_slices():
    cache = SliceCache([made("much", [0, 1, 2, 3]), made("clean", []), made("little", [5])], GRID)
    drawn = [cache.draw(1, step, 4, 0.5, by="case") for step in range(8)]
    seen = [pair for pairs in drawn for pair in pairs if pair in cache.positives]
    assert [sorted({c for c, _ in seen[i : i + 2]}) for i in range(0, 16, 2)] == [[0, 2]] * 8
    for start in (0, 8):
        assert sorted(k for c, k in seen[start : start + 8] if c == 0) == [0, 1, 2, 3]
    by_slice = [cache.draw(1, step, 4, 0.5) for step in range(8)]
    assert [[p for p in pairs if p in cache.negatives] for pairs in drawn] == [[p for p in pairs if p in cache.negatives] for pairs in by_slice]
    assert cache.draw(1, 6, 4, 0.5, by="case") == drawn[6] != cache.draw(2, 6, 4, 0.5, by="case")


@pytest.mark.parametrize(("batch", "share"), [(1, 0.5), (1, 0.3), (3, 0.5), (4, 0.9), (8, 0.5)])
def test_slices_with_blood_have_their_share_at_any_batch(batch, share):
    found = SliceCache([made("a", [0, 1, 2]), made("b", [5])], GRID)
    positives = set(found.positives)
    drawn = [found.draw(0, step, batch, share) for step in range(100)]
    assert all(len(pairs) == batch for pairs in drawn)
    assert sum(pair in positives for pairs in drawn for pair in pairs) == pytest.approx(100 * batch * share, abs=1)
