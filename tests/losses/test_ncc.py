# SPDX-License-Identifier: Apache-2.0
"""The normalized cross-correlations against MONAI, NumPy, finite differences and their own invariances."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from torch import Tensor, nn

from regplugins.losses import LocalNCCLoss, NCCLoss

MONAI_KERNEL = {"box": "rectangular", "gaussian": "gaussian"}
BOTH = [NCCLoss(), LocalNCCLoss(5)]


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return two images in [0, 1] that are correlated, as those of a registration are."""
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


def test_local_gives_only_the_gradients_asked_for() -> None:
    pred, target = pair((1, 1, 10, 10, 10))
    _, expected_pred, expected_target = value_and_gradients(LocalNCCLoss(5), pred, target, torch.float32)
    for first in (True, False):
        images = pred.clone().requires_grad_(first), target.clone().requires_grad_(not first)
        LocalNCCLoss(5)(*images).mul(3).backward()
        with_gradient, without = images if first else images[::-1]
        assert without.grad is None
        torch.testing.assert_close(with_gradient.grad, 3 * (expected_pred if first else expected_target))


def test_local_without_autograd_is_the_same_value() -> None:
    pred, target = pair((1, 1, 10, 10, 10))
    pred.requires_grad_()
    with torch.no_grad():
        value = LocalNCCLoss(5)(pred, target)
    assert not value.requires_grad
    assert value == LocalNCCLoss(5)(pred, target)


def test_local_refuses_a_second_derivative() -> None:
    pred, target = pair((1, 1, 8, 8))
    squared = LocalNCCLoss(5)(pred.requires_grad_(), target).square()
    (gradient,) = torch.autograd.grad(squared, pred, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_local_takes_images_of_any_memory_layout() -> None:
    pred, target = pair((2, 1, 8, 10, 12))
    expected = LocalNCCLoss(5)(pred, target)
    layouts = pred.transpose(2, 4).contiguous().transpose(2, 4), target.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(LocalNCCLoss(5)(*layouts), expected)


@pytest.mark.parametrize(("scale", "offset"), [(0.2, 0.0), (30.0, -4.0), (1.0, 10.0)])
def test_intensities_may_be_scaled_and_shifted(scale: float, offset: float) -> None:
    shape = (1, 1, 16, 16, 16)
    pred, target = pair(shape)
    # Zero padding beyond the border makes the outermost windows depend on the offset.
    for loss, mask in ((NCCLoss(), None), (LocalNCCLoss(5), interior(shape, 2))):
        expected = loss(pred, target, mask)
        torch.testing.assert_close(loss(pred * scale + offset, target, mask), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(loss(pred, target * scale + offset, mask), expected, rtol=0, atol=1e-4)
        perfect = loss(target * scale + offset, target, mask)
        torch.testing.assert_close(perfect, torch.tensor(-1.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(NCCLoss()(-target, target), torch.tensor(1.0))


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


@pytest.mark.parametrize("loss", BOTH, ids=["global", "local"])
def test_a_mask_of_ones_is_no_mask(loss: nn.Module) -> None:
    pred, target = pair((2, 2, 8, 9, 10))
    ones = torch.ones(2, 1, 8, 9, 10)
    for mask in (ones, ones.bool(), 7 * ones):
        torch.testing.assert_close(loss(pred, target, mask), loss(pred, target))


@pytest.mark.parametrize(("loss", "reach"), [(NCCLoss(), 0), (LocalNCCLoss(5), 2)], ids=["global", "local"])
def test_what_the_mask_leaves_out_has_no_influence(loss: nn.Module, reach: int) -> None:
    shape = (1, 1, 14, 14, 14)
    pred, target = pair(shape)
    mask = interior(shape, 4)
    outside = interior(shape, 4 - reach) == 0
    pred.requires_grad_()
    value = loss(pred, target, mask)
    value.backward()
    assert torch.count_nonzero(pred.grad[outside]) == 0
    assert torch.count_nonzero(pred.grad[mask > 0]) > 0
    with torch.no_grad():
        pred[outside] += 5 * torch.rand(int(outside.sum()))
    torch.testing.assert_close(loss(pred, target, mask), value)


@pytest.mark.parametrize("loss", BOTH, ids=["global", "local"])
def test_an_empty_mask_is_a_loss_of_nothing(loss: nn.Module) -> None:
    pred, target = pair((1, 1, 8, 8, 8))
    value = loss(pred.requires_grad_(), target, torch.zeros(1, 1, 8, 8, 8))
    value.backward()
    assert value == 0
    assert torch.count_nonzero(pred.grad) == 0


@pytest.mark.parametrize("loss", BOTH, ids=["global", "local"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_computes_in_float32_under_autocast(loss: nn.Module, dtype: torch.dtype) -> None:
    # Far from zero, where squares in 8 bits would leave nothing of the variance.
    pred, target = ((image + 4).to(dtype) for image in pair((1, 1, 12, 12, 12)))
    expected = value_and_gradients(loss, pred, target, torch.float64)
    pred.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(pred, target)
    value.backward()
    assert value.dtype == torch.float32
    assert pred.grad.dtype == dtype
    assert value.item() == pytest.approx(expected[0].item(), abs=1e-4)
    assert_close_to_the_largest(pred.grad, expected[1], max(1e-3, torch.finfo(dtype).eps))


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


@pytest.mark.parametrize("loss", BOTH, ids=["global", "local"])
def test_unfit_images_are_refused(loss: nn.Module) -> None:
    image = torch.rand(2, 1, 8, 9, 10)
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 9, 10\) and \(2, 1, 8, 9, 9\)"):
        loss(image, image[..., 1:])
    with pytest.raises(ValueError, match=r"got the shape \(9, 10\)"):
        loss(image[0, 0, 0], image[0, 0, 0])
    with pytest.raises(TypeError, match=r"torch\.float32 and torch\.int64"):
        loss(image, image.long())
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 9, 10\) for these images, got \(1, 1, 8, 9, 10\)"):
        loss(image, image, image[:1])


@pytest.mark.parametrize("kernel_size", [0, -3, 8])
def test_local_refuses_an_even_or_empty_window(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"got {kernel_size}"):
        LocalNCCLoss(kernel_size)


def test_local_refuses_an_unknown_kernel() -> None:
    with pytest.raises(ValueError, match="'triangular'"):
        LocalNCCLoss(kernel="triangular")  # type: ignore[arg-type]
