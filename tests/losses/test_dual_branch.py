# SPDX-License-Identifier: Apache-2.0
"""Objective of the dual-branch network in closed cases."""

import pytest
import torch
from torch import Tensor, nn

from regplugins.losses import DualBranchLoss, MINDLoss, SquaredGradientLoss
from regplugins.spatial import identity_grid
from tests.numpy_truth import gradient_length


class Told(nn.Module):
    """Loss that returns given numbers, one per call, and records its arguments."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self.numbers = numbers
        self.calls: list[tuple[Tensor | None, ...]] = []

    def forward(self, *arguments: Tensor | None) -> Tensor:
        self.calls.append(arguments)
        return torch.tensor(self.numbers[len(self.calls) - 1])


def a_target(*shape: int) -> dict[str, Tensor]:
    return {"moving": torch.rand(2, 1, *shape), "fixed": torch.rand(2, 1, *shape)}


def shift(*voxels: float, shape: tuple[int, ...], batch: int = 2) -> Tensor:
    """Constant field."""
    n = len(shape)
    return torch.tensor(voxels).view(1, n, *[1] * n).repeat(batch, 1, *shape)


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.4, 0.8, 0.3)])
def test_each_weight_is_that_of_its_term(weights):
    alpha, beta, gamma = weights
    fields = [torch.zeros(2, 2, 6, 7)] * 2
    value = DualBranchLoss(Told(2, 3), Told(5, 7), *weights)(fields, a_target(6, 7))
    assert float(value) == pytest.approx(2 + 3 * alpha + 5 * beta + 7 * gamma)


def test_weights_are_by_default_those_of_the_paper_for_abdomens():
    fields = [torch.zeros(2, 2, 6, 7)] * 3
    assert float(DualBranchLoss(Told(2, 3), Told(5, 7))(fields, a_target(6, 7))) == pytest.approx(2 + 1.5 + 5 + 3.5)


def test_what_is_compared_are_images_and_their_gradients_each_through_its_field():
    target = a_target(8, 9)
    # Along the first axis everything moves by two voxels; the edges along the second by one.
    fields = [shift(2.0, 0.0, shape=(8, 9)), shift(0.0, -1.0, shape=(8, 9))]
    similarity, regularization = Told(0, 0), Told(0, 0)
    DualBranchLoss(similarity, regularization)(fields, target)
    (warped, fixed, no_mask), (warped_edges, fixed_edges, _) = similarity.calls
    torch.testing.assert_close(warped[:, :, :-2], target["moving"][:, :, 2:])
    assert fixed is target["fixed"]
    assert no_mask is None
    torch.testing.assert_close(warped_edges[..., 1:], gradient_length(target["moving"])[..., :-1])
    torch.testing.assert_close(fixed_edges, gradient_length(target["fixed"]))
    for (field,), own in zip(regularization.calls, fields, strict=True):
        assert field is own


def test_edges_are_those_of_the_image_before_it_is_warped():
    """A field that maps voxel i to voxel 2 i would double the gradient of the warped image."""
    target = a_target(12, 5)
    doubling = torch.zeros(2, 2, 12, 5)
    doubling[:, 0] = identity_grid([12, 5])[0]
    similarity = Told(0, 0)
    DualBranchLoss(similarity, Told(0, 0))([doubling, doubling], target)
    edges = similarity.calls[1][0]
    torch.testing.assert_close(edges[:, :, :6], gradient_length(target["moving"])[:, :, ::2], rtol=1e-4, atol=1e-5)


def test_one_field_leaves_out_the_terms_of_the_gradient_branch():
    similarity, regularization = Told(2), Told(5)
    value = DualBranchLoss(similarity, regularization, 10.0, 3.0, 10.0)([torch.zeros(2, 2, 6, 7)], a_target(6, 7))
    assert float(value) == 2 + 3 * 5
    assert len(similarity.calls) == len(regularization.calls) == 1


def test_mask_is_handed_on_to_both_similarities():
    similarity = Told(0, 0)
    mask = (torch.rand(2, 1, 6, 7) > 0.5).float()
    fields = [torch.zeros(2, 2, 6, 7)] * 2
    DualBranchLoss(similarity, Told(0, 0))(fields, a_target(6, 7) | {"mask": mask})
    assert [call[2] is mask for call in similarity.calls] == [True, True]


def test_gradient_reaches_both_fields():
    torch.manual_seed(2)
    fields = [(0.3 * torch.randn(2, 3, 8, 8, 8)).requires_grad_() for _ in range(2)]
    DualBranchLoss(MINDLoss(), SquaredGradientLoss())(fields, a_target(8, 8, 8)).backward()
    for field in fields:
        assert field.grad.isfinite().all()
        assert field.grad.flatten(2).abs().amax(dim=2).min() > 0  # of every image, along every axis
