# SPDX-License-Identifier: Apache-2.0
"""Gradient magnitude against NumPy."""

import pytest
import torch

from regplugins.spatial import gradient_magnitude
from tests.numpy_truth import gradient_length

shapes = pytest.mark.parametrize("shape", [(7, 9), (6, 8, 5)])


@shapes
def test_equals_numpy_each_channel_by_itself(shape):
    image = torch.randn(2, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(gradient_magnitude(image), gradient_length(image), rtol=1e-12, atol=0)


def test_a_step_is_symmetric_about_its_edge():
    step = torch.zeros(1, 1, 7, 9)
    step[:, :, 3:] = 1
    expected = torch.zeros_like(step)
    expected[:, :, 2:4] = 0.5
    assert torch.equal(gradient_magnitude(step), expected)


def test_derivative_against_finite_differences_and_zero_where_the_image_is_flat():
    torch.manual_seed(0)
    image = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gradient_magnitude, image)
    flat = torch.ones(1, 1, 4, 5, 3, requires_grad=True)
    gradient_magnitude(flat).sum().backward()
    assert torch.equal(flat.grad, torch.zeros_like(flat))


def test_an_axis_of_one_voxel_adds_nothing():
    image = torch.randn(1, 1, 6, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(gradient_magnitude(image)[..., 0, :], gradient_magnitude(image[..., 0, :]))


@shapes
def test_compiled_on_one_image_it_is_right_for_another(shape):
    traced = torch.jit.trace(gradient_magnitude, torch.randn(1, 2, *shape))
    larger = tuple(size + 3 for size in shape)
    for function, sizes in ((torch.jit.script(gradient_magnitude), larger), (traced, shape)):
        image = torch.randn(1, 2, *sizes, dtype=torch.float64)
        torch.testing.assert_close(function(image), gradient_length(image), rtol=1e-12, atol=0)
