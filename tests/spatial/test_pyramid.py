# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of a lower resolution lie."""

from __future__ import annotations

import torch

from regplugins.spatial import downsample, identity_grid, upsample_ddf


def test_voxel_i_of_the_half_resolution_lies_on_voxel_two_i():
    for shape in ((9, 8), (8, 7, 6)):
        half = downsample(identity_grid(list(shape))[:1][None])
        inner = half.flatten(3)[0, 0, 1:-1]
        expected = 2.0 * torch.arange(1, half.shape[2] - 1)
        torch.testing.assert_close(inner, expected.view(-1, *[1] * (inner.dim() - 1)).expand_as(inner))
        assert half.shape[2:] == tuple((size + 1) // 2 for size in shape)


def test_a_straight_field_comes_back_from_half_the_resolution():
    for shape in ((17, 15), (9, 11, 17)):
        field = 0.1 * identity_grid(list(shape))[None]
        there_and_back = upsample_ddf(downsample(field) / 2, 2)
        inner = (slice(None), slice(None), *(slice(2, size - 2) for size in shape))
        torch.testing.assert_close(there_and_back[inner], field[inner])
