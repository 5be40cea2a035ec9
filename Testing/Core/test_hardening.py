"""Bone in the phantom's scanner: hardening and partial volume as the physics of projections has them."""

from __future__ import annotations

import numpy as np
import torch
from SAHLoRALib.phantom.hardening import _project, _reconstruct, bone_error, bone_layers
from torch import Tensor

N, FIELD_MM = 128, 230.0


def away(rows: float = 0.0, columns: float = 0.0) -> Tensor:
    """(N, N) mm from a point beside the middle."""
    place = (torch.arange(N) - (N - 1) / 2) * (FIELD_MM / N)
    return torch.hypot(place[:, None] - rows, place[None, :] - columns)


def ring(mm: float = 8.0) -> Tensor:
    """(1, N, N) a vault of dense bone, 70 mm to its inner table."""
    distance = away()
    return ((distance > 70) & (distance < 70 + mm)).float()[None]


def test_what_is_projected_comes_back_by_filtered_back_projection():
    disc = torch.sigmoid((40 - away(10, -15)) / 2)
    back = _reconstruct(_project(disc[None])[0], 1.0)
    assert abs(float(back[away(10, -15) < 30].mean()) - 1) < 0.02
    assert float(back[(away(10, -15) > 55) & (away() < 100)].abs().max()) < 0.06


def test_a_vault_brightens_the_brain_towards_the_inner_table_and_twice_the_hardening_twice_as_much():
    error = bone_error(ring(), FIELD_MM, 150.0)
    near, middle = error[(away() > 63) & (away() < 66)].mean(), error[away() < 20].mean()
    assert 5 < float(near - middle) < 30
    assert float(middle) > 0
    assert torch.allclose(bone_error(ring(), FIELD_MM, 300.0), 2 * error, rtol=1e-4, atol=1e-4)


def test_between_two_dense_bones_lies_a_dark_bar():
    left, right = away(0, -45) < 16, away(0, 45) < 16
    error = bone_error((left | right).float()[None] * 1.5, FIELD_MM, 150.0)
    between, above = error[N // 2 - 3 : N // 2 + 3, N // 2 - 6 : N // 2 + 6].mean(), error[N // 2 - 22 : N // 2 - 16, N // 2 - 6 : N // 2 + 6].mean()
    assert float(between) < -10
    assert float(above - between) > 15


def test_bone_that_differs_between_the_layers_of_a_slice_makes_streaks_without_any_hardening():
    wedge = torch.stack([(away(0, shift) < 20).float() for shift in (-50.0, -40.0, -30.0)])
    streaks = bone_error(wedge, FIELD_MM, 0.0)
    outside = (away(0, -40) > 35) & (away() < 100)
    assert float(streaks[outside].std()) > 2
    same = bone_error(wedge[:1].expand(3, -1, -1), FIELD_MM, 0.0)
    assert float(same.abs().max()) < 1e-3
    assert float(bone_error(wedge[:1], FIELD_MM, 0.0).abs().max()) == 0


def test_bone_is_counted_in_layers_on_a_coarse_grid_and_soft_tissue_is_not():
    hu = torch.full((5, 512, 512), 60.0)
    hu[:, 200:300, 200:300] = 1000.0
    bone = bone_layers(hu)
    assert tuple(bone.shape) == (3, 128, 128)
    assert np.isclose(float(bone.sum(dim=(1, 2)).mean()) * 16, 100 * 100, rtol=1e-3)
    assert float(bone[:, :40].abs().max()) == 0
    assert tuple(bone_layers(hu[:1, :64, :64]).shape) == (1, 64, 64)
