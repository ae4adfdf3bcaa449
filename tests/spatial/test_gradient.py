# SPDX-License-Identifier: Apache-2.0
"""The length of an image's gradient against closed forms and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regplugins.spatial import gradient_magnitude, identity_grid

SHAPES = [(7, 9), (6, 8, 5)]
shapes = pytest.mark.parametrize("shape", SHAPES)


def numpys(image: torch.Tensor) -> np.ndarray:
    """Length of NumPy's gradient of (*spatial) continued from its border."""
    parts = np.gradient(np.pad(image.numpy(), 1, mode="edge"))
    return np.sqrt(sum(part**2 for part in parts))[(slice(1, -1),) * image.ndim]


@shapes
def test_a_ramp_is_as_steep_as_its_slopes_say(shape):
    slopes = torch.tensor([0.3, -1.2, 0.4], dtype=torch.float64)[: len(shape)].view(-1, *[1] * len(shape))
    places = identity_grid(list(shape), dtype=torch.float64)
    magnitude = gradient_magnitude((slopes * places).sum(dim=0)[None, None])[0, 0]
    # At the border the voxel outside is the border's own: half the difference is missing along that axis.
    sizes = torch.tensor(shape).view(-1, *[1] * len(shape))
    known = slopes * torch.where((places == 0) | (places == sizes - 1), 0.5, 1.0)
    torch.testing.assert_close(magnitude, known.norm(dim=0))


@shapes
def test_equals_numpy_each_channel_by_itself(shape):
    image = torch.randn(2, 3, *shape, dtype=torch.float64)
    magnitude = gradient_magnitude(image)
    assert magnitude.shape == image.shape
    for own, result in zip(image.flatten(0, 1), magnitude.flatten(0, 1), strict=True):
        np.testing.assert_allclose(result.numpy(), numpys(own), rtol=1e-12)


@pytest.mark.parametrize("shape", [(41, 41), (41, 41, 41)])
def test_of_a_ball_there_remains_the_edge(shape):
    """From 1 to 0 over four voxels about the radius 12: a quarter a voxel there, nothing within and without."""
    away = (identity_grid(list(shape)) - 20).norm(dim=0)
    magnitude = gradient_magnitude((0.5 - (away - 12) / 4).clamp(0, 1)[None, None])[0, 0]
    assert not magnitude[(away < 9) | (away > 15)].any()
    edge = magnitude[(away - 12).abs() < 1]
    torch.testing.assert_close(edge, torch.full_like(edge, 0.25), rtol=0.01, atol=0)


@shapes
def test_a_step_lies_where_it_is_seen_from_either_side(shape):
    image = torch.randn(1, 1, *shape)
    axes = list(range(2, image.dim()))
    torch.testing.assert_close(gradient_magnitude(image.flip(axes)), gradient_magnitude(image).flip(axes))
    step = torch.zeros(1, 1, *shape)
    step[:, :, 3:] = 1
    expected = torch.zeros_like(step)
    expected[:, :, 2:4] = 0.5
    assert torch.equal(gradient_magnitude(step), expected)


@shapes
def test_what_is_constant_has_none(shape):
    assert not gradient_magnitude(torch.full((1, 2, *shape), -731.5)).any()


def test_an_axis_of_one_voxel_adds_nothing():
    image = torch.randn(1, 1, 6, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(gradient_magnitude(image)[..., 0, :], gradient_magnitude(image[..., 0, :]))


@pytest.mark.parametrize("compiled", ["script", "trace"])
@shapes
def test_compiled_on_one_image_it_is_right_for_another(shape, compiled):
    function = (
        torch.jit.script(gradient_magnitude)
        if compiled == "script"
        else torch.jit.trace(gradient_magnitude, torch.randn(1, 2, *shape))
    )
    image = torch.randn(1, 2, *(size + 3 if compiled == "script" else size for size in shape), dtype=torch.float64)
    np.testing.assert_allclose(function(image)[0, 1].numpy(), numpys(image[0, 1]), rtol=1e-12)
