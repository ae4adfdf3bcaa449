# SPDX-License-Identifier: Apache-2.0
"""Properties that all similarity losses share."""

import pytest
import torch
from torch import Tensor

from regplugins.losses import MIND, LocalNCCLoss, MINDLoss, NCCLoss
from regplugins.losses._similarity import SimilarityLoss

every_loss = pytest.mark.parametrize("loss", [NCCLoss(), LocalNCCLoss(5), MINDLoss()], ids=["ncc", "local", "mind"])
fused_loss = pytest.mark.parametrize("loss", [LocalNCCLoss(5), MINDLoss()], ids=["local", "mind"])


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Two correlated images in [0, 1]."""
    target = torch.rand(shape, dtype=dtype)
    return 0.5 * target + 0.5 * torch.rand(shape, dtype=dtype), target


@every_loss
def test_a_mask_of_ones_is_no_mask(loss: SimilarityLoss) -> None:
    pred, target = pair((2, 2, 8, 9, 10))
    ones = torch.ones(2, 1, 8, 9, 10)
    for mask in (ones, ones.bool(), 7 * ones):
        torch.testing.assert_close(loss(pred, target, mask), loss(pred, target))


@every_loss
def test_an_empty_mask_gives_zero(loss: SimilarityLoss) -> None:
    pred, target = pair((1, 1, 8, 8, 8))
    value = loss(pred.requires_grad_(), target, torch.zeros(1, 1, 8, 8, 8))
    value.backward()
    assert value == 0
    assert torch.count_nonzero(pred.grad) == 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_computes_in_float32_under_autocast(loss: SimilarityLoss, dtype: torch.dtype) -> None:
    # Far from zero, where squares in 8 bits have no digits left for the variance.
    pred, target = ((image + 4).to(dtype) for image in pair((1, 1, 12, 12, 12)))
    exact = pred.double().requires_grad_()
    expected = loss(exact, target.double())
    expected.backward()
    descriptors = MIND()(pred)
    assert descriptors.dtype == torch.float32
    pred.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(pred, target)
        assert torch.equal(MIND()(pred), descriptors)
    value.backward()
    assert value.dtype == torch.float32
    assert pred.grad.dtype == dtype
    assert value.item() == pytest.approx(expected.item(), abs=1e-4)
    error = (pred.grad.double() - exact.grad).abs().max() / exact.grad.abs().max()
    assert error < max(1e-3, torch.finfo(dtype).eps)


@fused_loss
def test_only_the_required_gradients_are_computed(loss: SimilarityLoss) -> None:
    pred, target = pair((1, 2, 10, 9, 8))
    both = torch.autograd.grad(loss(pred.requires_grad_(), target.requires_grad_()), (pred, target))
    for first in (True, False):
        images = pred.detach().clone().requires_grad_(first), target.detach().clone().requires_grad_(not first)
        loss(*images).mul(3).backward()
        with_gradient, without = images if first else images[::-1]
        assert without.grad is None
        torch.testing.assert_close(with_gradient.grad, 3 * both[0 if first else 1])
    with torch.no_grad():
        value = loss(pred, target)
    assert not value.requires_grad
    assert value == loss(pred, target)


@fused_loss
def test_a_second_derivative_is_refused(loss: SimilarityLoss) -> None:
    pred, target = pair((1, 1, 8, 8))
    (gradient,) = torch.autograd.grad(loss(pred.requires_grad_(), target).square(), pred, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@fused_loss
def test_any_memory_layout_is_accepted(loss: SimilarityLoss) -> None:
    pred, target = pair((2, 2, 8, 9, 7))
    layouts = pred.transpose(2, 4).contiguous().transpose(2, 4), target.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(loss(*layouts), loss(pred, target))
    torch.testing.assert_close(MIND()(layouts[0]), MIND()(pred))


@every_loss
def test_unfit_images_are_refused(loss: SimilarityLoss) -> None:
    image = torch.rand(2, 1, 8, 9, 10)
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 9, 10\) and \(2, 1, 8, 9, 9\)"):
        loss(image, image[..., 1:])
    with pytest.raises(ValueError, match=r"got the shape \(9, 10\)"):
        loss(image[0, 0, 0], image[0, 0, 0])
    with pytest.raises(TypeError, match=r"torch\.float32 and torch\.int64"):
        loss(image, image.long())
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 9, 10\) for these images, got \(1, 1, 8, 9, 10\)"):
        loss(image, image, image[:1])
    with pytest.raises(ValueError, match=r"image must be .* got the shape \(9, 10\)"):
        MIND()(image[0, 0, 0])
    with pytest.raises(TypeError, match=r"torch\.int64"):
        MIND()(image.long())
