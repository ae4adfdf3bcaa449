# SPDX-License-Identifier: Apache-2.0
"""Multi-threaded sampling against PyTorch."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from regplugins.spatial.warp import _parts, sample


@pytest.fixture(params=[1, 5])
def threads(request) -> Iterator[int]:
    """Number of PyTorch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("shape", [(6, 8, 5), (7, 11, 13)])
def test_the_values_of_pytorch_whatever_the_threads(threads, mode, padding, shape):
    torch.manual_seed(0)
    image, positions = torch.rand(1, 2, 9, 10, 11), 3 * torch.rand(1, *shape, 3) - 1.5
    expected = F.grid_sample(image, positions, mode, padding, align_corners=True)
    assert torch.equal(sample(image, positions, mode, padding), expected)


def test_its_derivative_by_the_places_and_by_the_image(threads):
    torch.manual_seed(0)
    image = torch.rand(1, 2, 5, 6, 7, dtype=torch.float64, requires_grad=True)
    positions = (1.6 * torch.rand(1, 3, 4, 2, 3, dtype=torch.float64) - 0.8).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: sample(image.detach(), p), (positions,))
    assert torch.autograd.gradcheck(sample, (image, positions))


def test_equal_parts_that_keep_most_threads_busy(threads):
    image = torch.rand(1, 1, 4, 4, 4)
    for places in (1, 7, 64, 96, 97 * 97):
        parts = _parts(image, torch.zeros(1, 1, 1, places, 3))
        assert places % parts == 0
        if places % threads == 0:
            assert parts == threads


@pytest.mark.parametrize(
    "image", [torch.rand(2, 1, 4, 4, 4), torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4, 4, requires_grad=True)]
)
def test_not_divided(image):
    """Batches, which PyTorch distributes itself, and images that need a gradient."""
    assert _parts(image, torch.zeros(len(image), 8, 8, 8, 3)) == 1
