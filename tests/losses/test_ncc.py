# SPDX-License-Identifier: Apache-2.0
"""Normalized cross-correlations against MONAI, NumPy and finite differences."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from torch import Tensor, nn

from regplugins.losses import LocalNCCLoss, NCCLoss

MONAI_KERNEL = {"box": "rectangular", "gaussian": "gaussian"}


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return two correlated images in [0, 1]."""
    target = torch.rand(shape, dtype=dtype)
    return 0.5 * target + 0.5 * torch.rand(shape, dtype=dtype), target


def interior(shape: tuple[int, ...], margin: int) -> Tensor:
    mask = torch.zeros(shape[0], 1, *shape[2:])
    mask[(..., *(slice(margin, size - margin) for size in shape[2:]))] = 1
    return mask


def value_and_gradients(loss: nn.Module, pred: Tensor, target: Tensor, dtype: torch.dtype) -> list[Tensor]:
    pred, target = (image.detach().to(dtype, copy=True).requires_grad_() for image in (pred, target))
    value = loss(pred, target)
    value.backward()
    assert pred.grad is not None and target.grad is not None
    return [value.detach(), pred.grad, target.grad]


def assert_close_to_the_largest(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare with a tolerance relative to the largest expected value: gradients cross zero."""
    error = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error < tolerance


@pytest.mark.parametrize("kernel", ["box", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "kernel_size"),
    [
        ((2, 1, 20, 24, 18), 9),
        ((1, 2, 17, 12, 14), 5),
        ((1, 1, 16, 16, 16), 3),
        ((3, 2, 40, 33), 7),
        ((1, 2, 300, 289), 7),
        ((1, 1, 3, 1, 20), 9),
    ],
)
def test_local_equals_monai(shape: tuple[int, ...], kernel_size: int, kernel: str) -> None:
    pred, target = pair(shape)
    reference = LocalNormalizedCrossCorrelationLoss(len(shape) - 2, kernel_size, MONAI_KERNEL[kernel])
    expected = value_and_gradients(reference, pred, target, torch.float64)
    actual = value_and_gradients(LocalNCCLoss(kernel_size, kernel), pred, target, torch.float32)
    for ours, monai in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float32
        assert_close_to_the_largest(ours, monai, 2e-5)


def test_local_window_of_one_voxel_does_not_vary() -> None:
    for tensor in value_and_gradients(LocalNCCLoss(1), *pair((1, 1, 8, 8)), torch.float32):
        assert torch.count_nonzero(tensor) == 0


@pytest.mark.parametrize("smooth_dr", [1e-5, 0.3, 100.0])
@pytest.mark.parametrize("size", [(4, 5, 3), (6, 5)])
def test_local_gradient_is_that_of_finite_differences(size: tuple[int, ...], smooth_dr: float) -> None:
    pred, target = pair((1, 1, *size), torch.float64)
    # Over part of the image the variance lies below the larger limits.
    pred[..., :2] *= 0.1
    mask = torch.rand(1, 1, *size)
    for kernel in ("box", "gaussian"):
        loss = LocalNCCLoss(3, kernel, smooth_dr)
        for weight in (None, mask):
            assert torch.autograd.gradcheck(
                lambda a, b, loss=loss, weight=weight: loss(a, b, weight),
                (pred.clone().requires_grad_(), target.clone().requires_grad_()),
            )


@pytest.mark.parametrize("levels", [(0.0, 0.0), (0.0, 0.7), (0.3, 1.0), (1000.3, 1311.7), (-3.1e4, 7.7)])
@pytest.mark.parametrize("kernel", ["box", "gaussian"])
def test_local_constant_windows_count_nothing(levels: tuple[float, float], kernel: str) -> None:
    # Two constant halves: where neither the border nor the edge between them is within reach, there is nothing to
    # correlate, whatever the rounding of sums over the window leaves.
    steps = torch.full((1, 1, 14, 14, 28), levels[0])
    steps[..., 14:] = levels[1]
    away = interior(steps.shape, 4)
    away[..., 10:18] = 0
    for other in (steps, steps.flip(-1) * 0.77, torch.rand_like(steps)):
        images = steps.clone().requires_grad_(), other.clone().requires_grad_()
        value = LocalNCCLoss(9, kernel)(*images, away)
        value.backward()
        assert value == 0
        for image in images:
            assert torch.count_nonzero(image.grad) == 0

        everywhere = steps.clone().requires_grad_()
        value = LocalNCCLoss(9, kernel)(everywhere, other)
        value.backward()
        assert -1 <= value <= 0
        assert everywhere.grad.isfinite().all()


@pytest.mark.parametrize("level", [0.0, 0.1, -1234.567])
def test_global_constant_images_count_nothing(level: float) -> None:
    constant, varied = torch.full((1, 1, 9, 10, 11), level), torch.rand(1, 1, 9, 10, 11)
    for mask in (None, torch.rand(1, 1, 9, 10, 11)):
        for images in ((constant, varied), (varied, constant), (constant, constant * 3)):
            pred, target = (image.clone().requires_grad_() for image in images)
            value = NCCLoss()(pred, target, mask)
            value.backward()
            assert value == 0
            assert torch.count_nonzero(pred.grad) == 0
            assert torch.count_nonzero(target.grad) == 0


def test_global_averages_pearson_over_samples_and_channels() -> None:
    pred, target = pair((3, 2, 6, 7, 8), torch.float64)
    pred[1] = -pred[1]
    weight = torch.rand(3, 1, 6, 7, 8, dtype=torch.float64)
    for mask in (None, weight):
        expected = []
        for sample in range(3):
            for channel in range(2):
                images = [image[sample, channel].flatten().numpy() for image in (pred, target)]
                weights = None if mask is None else mask[sample, 0].flatten().numpy()
                (variance, covariance), (_, other) = np.cov(*images, aweights=weights)
                expected.append(covariance / np.sqrt(variance * other))
        assert NCCLoss()(pred, target, mask).item() == pytest.approx(-np.mean(expected), abs=1e-12)


def test_global_gradient_is_that_of_finite_differences() -> None:
    images = [image.requires_grad_() for image in pair((2, 2, 4, 5), torch.float64)]
    for mask in (None, torch.rand(2, 1, 4, 5)):
        assert torch.autograd.gradcheck(lambda a, b, mask=mask: NCCLoss()(a, b, mask), images)


def test_local_mask_weights_the_map_of_correlations() -> None:
    pred, target = pair((2, 3, 9, 10, 11), torch.float64)
    weight = torch.rand(2, 1, 9, 10, 11, dtype=torch.float64)
    correlation = LocalNormalizedCrossCorrelationLoss(3, 5, reduction="none")(pred, target)
    expected = (weight * correlation.mean(1, keepdim=True)).sum() / weight.sum()
    torch.testing.assert_close(LocalNCCLoss(5)(pred, target, weight), expected)


@pytest.fixture
def coarse_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_local_is_as_precise_where_matrix_products_are_not(coarse_products: None) -> None:
    # Where the processor multiplies bfloat16 matrices, "medium" would yield correlations above 1 here.
    pred, target = ((image + 4) for image in pair((1, 1, 32, 32, 32)))
    expected = LocalNormalizedCrossCorrelationLoss(3, 9)(pred.double(), target.double())
    assert LocalNCCLoss(9)(pred, target).item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("kernel_size", [0, -3, 8])
def test_local_refuses_an_even_or_empty_window(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"got {kernel_size}"):
        LocalNCCLoss(kernel_size)
