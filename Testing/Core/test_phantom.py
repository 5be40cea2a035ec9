"""Synthetic head CT: the same seed gives the same case, and what is made is what was asked for."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from SAHLoRALib.ct import list_series, read_ct, read_label
from SAHLoRALib.errors import ConfigError, ScanError
from SAHLoRALib.phantom import PhantomConfig, ScannerConfig, anatomy, heads_in, lesions, load_head, make_case, make_cohort
from SAHLoRALib.phantom.cohort import head_of
from SAHLoRALib.phantom.fields import distance_to, smooth_noise, warp
from SAHLoRALib.phantom.lesions import Bleeding
from SAHLoRALib.phantom.scanner import Pose, acquire, draw_pose, draw_scanner
from SAHLoRALib.phantom.tissue import _dura, _outer_table, _skull_base, draw_patient
from scipy import ndimage

SMALL = ScannerConfig(matrix=96, gaps_mm=(12.0,) * 11, thickness_mm=4.0, noise_hu=3.0)


@pytest.fixture(scope="module")
def head():
    return head_of(None)  # which make_cohort keeps in memory, too


@pytest.fixture(scope="module")
def patient(head):
    return draw_patient(head, np.random.default_rng(5))


@pytest.fixture(scope="module")
def asah(head):
    return make_case(head, "asah", 3, SMALL)


@pytest.fixture(scope="module")
def plain(head):
    return make_case(head, "none", 3, SMALL)


TILTED = replace(SMALL, tilt_degrees=-12.0, gaps_mm=(8.0,) * 5 + (14.0,) * 6, matrix=128, field_mm=230)


@pytest.fixture(scope="module")
def tilted(head):
    return make_case(head, "asah", 2, TILTED)


@pytest.mark.parametrize("limit", [2.0, 3.5, 11.0, 11.5, 40.0])
@pytest.mark.parametrize("kind", ["spots", "ball", "hole", "sheet", "empty", "full"])
def test_distances_are_those_of_a_distance_transform(kind, limit):
    mask = np.zeros((23, 31, 37), bool)
    where = {
        "spots": (slice(3, None, 9), slice(5, None, 13), slice(1, None, 17)),
        "ball": (slice(8, 14),) * 3,
        "sheet": (slice(None), 20, slice(9, 30)),
    }
    mask[where.get(kind, ())] = kind != "empty"
    if kind == "hole":
        mask[5:16, 8:25, :30] = False
    distance = distance_to(mask, limit)
    expected = ndimage.distance_transform_edt(~mask) if mask.any() else np.inf
    assert distance.dtype == np.float32
    assert np.array_equal(distance, np.broadcast_to(np.minimum(expected, limit), mask.shape).astype(np.float32))


def volume(case):
    return float(case.mask.sum(axis=(1, 2)) @ case.ct.voxel_volumes_ml)


def test_same_seed_gives_the_same_case_and_another_kind_another(head, asah, plain):
    again = make_case(head, "asah", 3, SMALL)
    assert np.array_equal(again.ct.hu, asah.ct.hu)
    assert np.array_equal(again.mask, asah.mask)
    assert not np.array_equal(plain.ct.hu, asah.ct.hu)


def test_a_warped_head_is_another_persons_with_as_much_in_it(head):
    """The pose turns the head as without; its shape is another one, and no voxel is mapped twice."""
    plain, same, warped = (draw_pose(np.random.default_rng(4), head.labels.shape, warp) for warp in (1.0, 1.0, 2.0))
    assert np.array_equal(plain.displacement, same.displacement) and np.array_equal(plain.matrix, same.matrix)
    moved = (warped.displacement - plain.displacement).numpy()[0]
    assert 1.5 < moved.std() < 4.0
    size = [np.linalg.norm(pose.matrix, axis=0) for pose in (plain, warped)]
    assert np.allclose(size[1], size[0] ** 2) and np.allclose(warped.matrix / size[1], plain.matrix / size[0])
    for axis in range(3):
        step = head.labels.shape[axis] / moved.shape[1 + axis]  # mm between two values of the displacement
        assert np.diff(warped.displacement.numpy()[0][axis], axis=axis).min() > -step


def test_a_cohort_of_warped_heads_is_made_anew_and_another(tmp_path):
    config = PhantomConfig(tmp_path, kind="none", seed=3, matrix=96, slices=6)
    plain = read_ct(make_cohort(config).parent / "none-00003" / "ct.nrrd").hu
    make_cohort(replace(config, warp=2.0))
    warped = read_ct(tmp_path / "none-00003" / "ct.nrrd").hu
    assert np.abs((warped > -200).mean() / (plain > -200).mean() - 1) > 0.01
    assert json.loads((tmp_path / "none-00003" / "case.json").read_text())["asked"]["warp"] == 2.0


def test_brain_bone_and_air_have_the_hu_of_a_head(asah):
    hu = asah.ct.hu
    brain = hu[(hu > 15) & (hu < 50)]
    assert 24 < np.median(brain) < 42
    assert (hu > 700).mean() > 0.005
    assert np.percentile(hu[:, :5, :5], 50) <= -900


def test_blood_is_denser_than_the_brain_around_it(head):
    case = make_case(head, "tbi", 12, replace(SMALL, noise_hu=0.5))
    assert volume(case) > 0.5
    blood, brain = case.ct.hu[case.mask], case.ct.hu[(case.ct.hu > 15) & (case.ct.hu < 48) & ~case.mask]
    assert np.median(blood) > np.median(brain) + 8


def test_a_case_without_haemorrhage_has_an_empty_mask(plain):
    assert not plain.mask.any() and plain.painted == ()


def bled(head, patient, paint, seed):
    bleeding = Bleeding(head, patient.copy(), np.zeros(patient.shape, np.float32), [])
    paint(bleeding, np.random.default_rng(seed))
    return bleeding


def test_aneurysmal_blood_lies_in_the_cisterns_and_a_contusion_in_the_brain(head, patient):
    fluid = head.where(24)
    assert fluid[bled(head, patient, lesions.subarachnoid, 2).fraction > 0.5].mean() > 0.99
    assert fluid[bled(head, patient, lesions.contusion, 2).fraction > 0.5].mean() < 0.3


def test_aneurysmal_volumes_span_from_little_to_much_and_grow_from_the_basal_cisterns(head, patient):
    found = [bled(head, patient, lesions.subarachnoid, seed).fraction for seed in range(5)]
    ml = [float(f.sum()) / 1000 for f in found]
    assert min(ml) < 5 and max(ml) > 15
    little = np.argwhere(found[int(np.argmin(ml))] > 0.5).mean(0)
    assert np.linalg.norm(little - head.willis) < 45


def test_traumatic_blood_stays_inside_the_skull(head, patient):
    bleeding = lesions.traumatic(head, patient.copy(), np.random.default_rng(1))
    assert bleeding.kinds and bleeding.fraction.max() > 0.9
    assert not (bleeding.fraction[~head.inside] > 0.5).any()


@pytest.mark.parametrize("paint", [lesions.parenchymal, lesions.contusion, lesions.epidural])
def test_traumatic_blood_is_found_below_the_tentorium_too(head, patient, paint):
    """A network that had never seen any there said 0.00 for a plain bleed in a real cerebellum. Mostly it lies above."""
    below = head.inside & (head.cerebellum_distance <= head.brain_distance + 1)
    shares = []
    while not shares or (max(shares) < 0.8 and len(shares) < 30):
        blood = bled(head, patient, paint, len(shares)).fraction > 0.5
        shares.append(float(below[blood].mean()) if blood.any() else 0.0)
    assert max(shares) >= 0.8 and np.median(shares) < 0.5


def test_a_film_stays_on_its_side_of_the_tentorium(head, patient):
    below = head.inside & (head.cerebellum_distance <= head.brain_distance + 1)
    for seed in range(4):
        blood = bled(head, patient, lesions.subdural, seed).fraction > 0.5
        share = below[blood].mean()
        assert share < 0.03 or share > 0.97, seed


def test_the_tentorium_is_too_thin_to_look_like_blood_in_a_thick_slice_and_the_falx_is_seen(head):
    tentorium, falx = [], []
    for seed in range(3):
        hu = np.full(head.labels.shape, 34.0, np.float32)
        _dura(head, hu, np.random.default_rng(seed))
        thick = ndimage.uniform_filter1d(hu, 5, axis=0)
        for sheet, found in ((head.tent, tentorium), (head.falx, falx)):
            found.append(float(np.percentile(thick[sheet & (head.depth > 6)], 90)))
    assert max(tentorium) < 44
    assert max(falx) > 44


def boxed_film(hu_of_film, share):
    """A film of 3 mm of blood under a plate of bone, CSF below it, scanned: CT and mask."""
    hu = np.full((24, 40, 40), 10.0, np.float32)
    fraction = np.zeros_like(hu)
    hu[:, :14], hu[:, 14:17] = 1200.0, hu_of_film
    fraction[:, 14:17] = share
    still = Pose(np.eye(3), torch.zeros(1, 3, 4, 4, 4))
    thin = ScannerConfig(matrix=64, field_mm=32.0, gaps_mm=(3.0,) * 3, thickness_mm=3.0, blur_mm=0.9, noise_hu=0.01, hardening_hu=0.0, holder=False)
    return acquire(hu, fraction, np.array([12.0, 20.0, 20.0]), still, thin, np.random.default_rng(0))


def test_what_only_the_bone_beside_it_makes_bright_is_not_outlined():
    faint, none = boxed_film(35.0, 0.5)
    film = slice(20, 24)  # rows of 0.5 mm within the film
    assert (faint.hu[:, film, 16:48] > 45).mean() > 0.2  # the bone's point spread
    assert not none.any()
    assert boxed_film(60.0, 1.0)[1][:, 22:25, 16:48].all()


def disc_in_brain(blood_hu, radius, noise=0.01):
    """Masks of a disc of blood in brain of 27 HU and of the same in brain of 38 HU."""
    rows, columns = np.mgrid[:40, :80]
    hu = np.where(columns < 40, 27.0, 38.0)
    disc = (np.hypot(rows - 20, columns - 20) <= radius) | (np.hypot(rows - 20, columns - 60) <= radius)
    hu = np.repeat(np.where(disc, blood_hu, hu)[None], 24, axis=0).astype(np.float32)
    fraction = np.repeat(disc[None], 24, axis=0).astype(np.float32)
    still = Pose(np.eye(3), torch.zeros(1, 3, 4, 4, 4))
    fine = ScannerConfig(matrix=160, field_mm=80.0, gaps_mm=(3.0,) * 3, thickness_mm=3.0, noise_hu=noise, hardening_hu=0.0, holder=False)
    mask = acquire(hu, fraction, np.array([12.0, 20.0, 40.0]), still, fine, np.random.default_rng(0))[1]
    return mask[:, :, :80], mask[:, :, 80:]


def test_blood_is_outlined_where_it_stands_out_from_the_brain_beside_it():
    in_pale, in_dense = disc_in_brain(43.0, 5.0)
    assert in_pale.any(axis=(1, 2)).all() and not in_dense.any()
    assert 60 < in_pale[1].sum() * 0.25 < 95  # 79 mm²
    assert all(mask.any() for mask in disc_in_brain(52.0, 5.0))


def test_collection_as_dense_as_brain_is_outlined_by_its_shape_where_it_is_large():
    assert not disc_in_brain(40.0, 4.0)[1].any()
    assert disc_in_brain(40.0, 9.0)[1].any(axis=(1, 2)).all()


def test_small_spot_that_is_lost_in_the_noise_is_not_outlined():
    small, _ = disc_in_brain(42.0, 2.2, noise=12.0)
    large, _ = disc_in_brain(42.0, 9.0, noise=12.0)
    assert not small.any() and large.any(axis=(1, 2)).all()
    assert disc_in_brain(42.0, 2.2, noise=2.0)[0].any()


def test_what_is_brighter_than_any_blood_is_left_to_the_bone():
    ct, mask = boxed_film(75.0, 1.0)
    shared = (ct.hu > 105) & (ct.hu < 155)  # the bone's edge, a pixel of half a millimetre and a half wide
    assert shared[:, :, 16:48].any() and not (mask & (ct.hu > 101)).any()
    assert mask[:, 23:25, 16:48].all()


def test_cord_and_arteries_of_a_label_map_are_tissue_and_blood_and_no_air(head):
    labels = head.labels.copy()
    z, y, x = (int(v) for v in head.willis)
    below = int(np.nonzero((labels == 16).any(axis=(1, 2)))[0].min())
    labels[below - 12 : below, y + 30 : y + 38, x - 4 : x + 4] = 512
    labels[z - 14 : z - 4, y - 8 : y - 3, x + 10 : x + 15] = 502  # a carotid beside the sella
    labels[z - 60 : z - 50, y : y + 5, x + 30 : x + 35] = 502  # and one in the neck
    with_both = anatomy.head_from_labels(labels, "with both")
    hu = draw_patient(with_both, np.random.default_rng(2), operated=0.0)
    cord, arteries = with_both.labels == 512, with_both.labels == 502
    assert cord.sum() > 500 and arteries.sum() > 400
    assert 24 < np.median(hu[cord]) < 40
    assert 36 < np.percentile(hu[arteries], 5) <= np.percentile(hu[arteries], 95) < 62
    assert (with_both.brain_distance[cord & with_both.inside] == 0).all()
    assert (with_both.brain_distance[arteries] > 0).all()


def test_the_skull_base_is_compact_outside_and_spongy_or_full_of_air_inside_and_the_vault_is_not(head, patient):
    bone = head.where(515, 516)
    deep = bone & (distance_to(~bone, 10.0) > 1.8)
    low = np.arange(bone.shape[0])[:, None, None] < head.willis[0] + 3
    lateral = np.abs(np.arange(bone.shape[2]) - head.willis[2])[None, None, :] > 22
    assert np.percentile(patient[deep & low], 95) < 1300
    assert np.median(patient[deep & low & ~lateral]) < 700 < np.median(patient[bone & ~deep & low])
    assert 0.05 < (patient[deep & low & lateral] < -50).mean() < 0.9
    assert (patient[bone & ~low] > 150).mean() > 0.97
    hu = np.where(bone, 1000.0, 30.0).astype(np.float32)
    _skull_base(head, hu, np.random.default_rng(1))
    assert (hu[bone & ~low] == 1000).all()
    values, counts = np.unique(hu[hu < -50], return_counts=True)
    cells = np.nonzero(hu == values[counts.argmax()])[1] - head.willis[1]  # all of a patient's have one value
    assert len(cells) > 100 and cells.min() > -13 and cells.max() < 41  # none in the frontal and in the occipital bone


def test_some_skulls_are_thicker_and_some_thinner_than_their_label_map_and_only_outside(head):
    bone, heights = head.where(515, 516), np.arange(head.labels.shape[0])[:, None, None] - head.willis[0]
    under = bone & (distance_to(head.inside, 8.0) <= 3.5)
    shares = []
    for seed in range(8):
        hu = np.where(bone, 1000.0, 30.0).astype(np.float32)
        _outer_table(head, hu, np.random.default_rng(seed))
        assert (hu[head.inside] == 30).all() and (hu[under] >= 800).all() and ((hu >= 800) == bone)[(heights < 7)[:, 0, 0]].all()
        shares.append((hu >= 800).sum() / bone.sum())
    assert min(shares) < 0.97 and max(shares) > 1.15


def test_blood_of_the_cavernous_sinus_lies_around_the_carotid_beside_the_sella(head):
    labels = head.labels.copy()
    z, y, x = (int(v) for v in head.willis)
    labels[z - 14 : z - 4, y - 12 : y, x + 5 : x + 20] = 24
    labels[z - 14 : z - 4, y - 8 : y - 4, x + 10 : x + 14] = 502
    sella = anatomy.head_from_labels(labels, "sella")
    carotid = sella.labels == 502
    around = ~carotid & (distance_to(carotid) < 1.5) & (sella.labels == 24)
    assert around.sum() > 100
    patients = (draw_patient(sella, np.random.default_rng(n), operated=0.0)[around] for n in range(4))
    assert any(np.mean((hu >= 38) & (hu <= 60)) > 0.9 for hu in patients)  # not every patient shows them


def test_thin_slices_are_noisier_than_thick_ones_of_the_same_hospital():
    drawn = [draw_scanner(np.random.default_rng(seed), site=site) for seed in range(300) for site in "AB"]
    noise = {mm: np.mean([s.noise_hu for s in drawn if s.thickness_mm == mm]) for mm in (1.0, 3.0, 7.0)}
    assert noise[1.0] > 1.2 * noise[3.0] > 1.2 * 1.2 * noise[7.0]
    assert max(s.noise_hu for s in drawn) <= 9.0


def test_a_subdural_pushes_the_brain_aside(head, patient):
    bleeding = bled(head, patient, lesions.subdural, 4)
    beside = head.inside & (bleeding.fraction == 0)
    assert np.abs(bleeding.hu - patient)[beside].max() > 5


def test_tilt_and_uneven_gaps_are_in_the_slice_positions(tilted):
    assert tilted.ct.tilt_degrees == pytest.approx(-12.0, abs=1e-6)
    assert tilted.ct.gaps_mm == pytest.approx(np.array(TILTED.gaps_mm) * np.cos(np.deg2rad(12)))


def test_dicom_series_keeps_positions_gaps_tilt_and_pixels(tmp_path, tilted):
    from SAHLoRALib.phantom.dicomseries import write_dicom

    write_dicom(tilted.ct, tmp_path / "series")
    ct = read_ct(tmp_path / "series")
    assert np.allclose(ct.positions, tilted.ct.positions, atol=1e-3)
    assert np.array_equal(ct.hu, tilted.ct.hu)
    assert ct.tilt_degrees == pytest.approx(-12.0, abs=1e-2)
    assert len(list_series(tmp_path / "series")) == 1


def test_cohort_writes_cases_a_table_and_keeps_what_is_there(tmp_path):
    config = PhantomConfig(tmp_path, kind="tbi", count=2, seed=10, without=0.5, matrix=96, slices=12)
    table = make_cohort(config)
    rows = list(csv.DictReader(table.open()))
    assert [r["haemorrhage"] for r in rows] == ["yes", "no"]
    stamp = (tmp_path / rows[0]["image"]).stat().st_mtime_ns
    (tmp_path / rows[1]["case"] / "case.json").unlink()
    make_cohort(config)
    assert (tmp_path / rows[0]["image"]).stat().st_mtime_ns == stamp
    ct = read_ct(tmp_path / rows[0]["image"])
    mask = read_label(tmp_path / rows[0]["mask"], ct)
    assert float(mask.sum(axis=(1, 2)) @ ct.voxel_volumes_ml) == pytest.approx(float(rows[0]["ml"]), rel=1e-3, abs=1e-3)
    assert json.loads((tmp_path / rows[0]["case"] / "case.json").read_text())["asked"]["seed"] == 10
    note = tmp_path / rows[0]["case"] / "case.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"ml": 0.0}))  # as where the bleed lies outside the slices
    assert [r["haemorrhage"] for r in csv.DictReader(make_cohort(config).open())] == ["no", "no"]


def test_a_folder_of_label_maps_serves_as_anatomy(tmp_path, head):
    image = sitk.GetImageFromArray(head.labels)
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "one.nii.gz"))
    assert heads_in(tmp_path) == [tmp_path / "one.nii.gz"]
    assert load_head(tmp_path / "one.nii.gz").inside.mean() > 0.05


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"kind": "stroke"}, "stroke"),
        ({"count": 0}, "count"),
        ({"without": 1.5}, "share"),
        ({"format": "jpg"}, "jpg"),
        ({"slices": 1}, "slices"),
        ({"use": "1-3"}, "folder"),
        ({"matrix": 8}, "matrix"),
        ({"warp": 0.5}, "warp"),
        ({"warp": 3.5}, "warp"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(tmp_path, settings, word):
    with pytest.raises(ConfigError, match=word):
        PhantomConfig(tmp_path, **settings)


def test_a_folder_without_label_maps_and_a_file_that_is_none_are_refused(tmp_path):
    with pytest.raises(ScanError, match="label maps"):
        heads_in(tmp_path)
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    with pytest.raises(ScanError, match=r"broken\.nii\.gz"):
        load_head(tmp_path / "broken.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 8), np.uint8)), str(tmp_path / "empty.nii.gz"))
    with pytest.raises(ScanError, match="whole-head label map"):
        load_head(tmp_path / "empty.nii.gz")


def test_distance_noise_and_warp_do_what_they_say():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    assert distance_to(mask)[4, 4, 8] == pytest.approx(4.0)
    assert distance_to(np.zeros_like(mask)).min() == 100.0
    noise = smooth_noise((40, 40, 40), 5, np.random.default_rng(0))
    assert abs(noise.mean()) < 0.5 and noise.std() == pytest.approx(1.0, abs=0.3)
    values = np.arange(9, dtype=np.float32)[:, None, None] * np.ones((9, 9, 9), np.float32)
    shift = np.zeros((3, 9, 9, 9), np.float32)
    shift[0] = 1.0
    assert np.allclose(warp(values, shift)[:8], values[1:], atol=1e-4)
