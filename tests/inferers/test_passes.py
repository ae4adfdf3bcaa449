# SPDX-License-Identifier: Apache-2.0
"""Several passes of a network: composed fields in closed form, and what the network gets in each pass."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

from regplugins.inferers import ValidTileInferer, WholeVolumeInferer
from regplugins.networks import Fire, bidirectional
from regplugins.spatial import compose_ddf, identity_grid, warp
from tests.networks.test_fire import lively


class Recorded(nn.Module):
    """Gives the listed fields, one after the other, and keeps the pairs that it gets."""

    def __init__(self, *fields: Tensor) -> None:
        super().__init__()
        self.fields, self.pairs = fields, list[Tensor]()

    def forward(self, pair: Tensor) -> Tensor:
        self.pairs.append(pair.clone())
        return self.fields[len(self.pairs) - 1]


class Constant(nn.Module):
    """Translation by whatever the images, without the margin of a valid convolution."""

    margin, stride, voxel_bytes = 4, 4, 100

    def __init__(self, *translation: float, margin: int) -> None:
        super().__init__()
        self.translation, self.margin = torch.tensor(translation), margin

    def forward(self, pair: Tensor) -> Tensor:
        shape = [size - 2 * self.margin for size in pair.shape[2:]]
        return self.translation.view(1, -1, *[1] * len(shape)).expand(len(pair), -1, *shape)


class Centroids(nn.Module):
    """Translation between the centers of mass, times ``damping``, in both directions."""

    def __init__(self, damping: float) -> None:
        super().__init__()
        self.damping = damping

    def forward(self, pair: Tensor) -> Tensor:
        grid = identity_grid(list(pair.shape[2:]))
        moving, fixed = ((image * grid).flatten(1).sum(1) / image.sum() for image in pair[0].split(1))
        shift = self.damping * (moving - fixed)
        return torch.cat([shift, -shift]).view(1, -1, 1, 1).expand(-1, -1, *pair.shape[2:])


def blob(center: tuple[float, float]) -> Tensor:
    squares = (identity_grid([48, 40]) - torch.tensor(center).view(2, 1, 1)).square().sum(0)
    return (-squares / 32).exp()[None, None]


def scaling(factor: float, shape: tuple[int, ...]) -> Tensor:
    """x -> factor x, about the first voxel."""
    return (factor - 1) * identity_grid(list(shape))[None]


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_constant_translation_adds_up(passes):
    pair, translation = torch.rand(1, 2, 20, 16, 12), torch.tensor([0.75, -0.5, 1.25])
    expected = (passes * translation).view(1, 3, 1, 1, 1).expand(1, -1, 20, 16, 12)
    whole = WholeVolumeInferer(passes=passes)(pair, Constant(*translation.tolist(), margin=0))
    tiles = ValidTileInferer(tile=[8, 8, 8], passes=passes, progress=False)
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(tiles(pair, Constant(*translation.tolist(), margin=4)), expected)


def test_the_residual_comes_first():
    """A scaling by 1.5 after a shift by (2, 1): 1.5 (x + t) - x, not 1.5 x + t - x."""
    shape = (12, 10)
    shift = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, *shape)
    field = WholeVolumeInferer(passes=2)(torch.rand(1, 2, *shape), Recorded(scaling(1.5, shape), shift))
    expected = 1.5 * (identity_grid(list(shape)) + shift) - identity_grid(list(shape))
    torch.testing.assert_close(field[..., :-2, :-1], expected[..., :-2, :-1])  # beyond, the field continues


def test_the_moving_image_is_warped_once():
    """Each pass gets the original image through the composed field, and the same fixed image."""
    torch.manual_seed(0)
    fields = [torch.randn(1, 2, 16, 12) for _ in range(3)]
    pair, network = torch.rand(1, 2, 16, 12), Recorded(*fields)
    found = WholeVolumeInferer(passes=3)(pair, network)
    second = compose_ddf(fields[0], fields[1])
    for seen, field in zip(network.pairs, [torch.zeros_like(second), fields[0], second], strict=True):
        torch.testing.assert_close(seen[:, :1], warp(pair[:, :1], field))
        assert torch.equal(seen[:, 1:], pair[:, 1:])
    torch.testing.assert_close(found, compose_ddf(second, fields[2]))


def test_residuals_converge_in_both_directions():
    """Each pass halves what is left of a translation by (6, -4); the directions stay inverses."""
    pair = torch.cat([blob((26.0, 18.0)), blob((20.0, 22.0))], dim=1)
    shift = torch.tensor([6.0, -4.0])
    for passes in (1, 2, 3, 6):
        field = WholeVolumeInferer(passes=passes)(pair, Centroids(0.5))[..., 24, 20]
        expected = (1 - 0.5**passes) * shift
        torch.testing.assert_close(field, torch.cat([expected, -expected])[None], atol=2e-3, rtol=0)
    exact = WholeVolumeInferer(passes=2)(pair, Centroids(1.0))
    there, back = exact.split(2, dim=1)
    torch.testing.assert_close(there[..., 24, 20], shift[None], atol=2e-3, rtol=0)
    assert compose_ddf(there, back).abs().max() < 2e-3


@pytest.mark.parametrize("scripted", [False, True])
def test_affine_passes_of_fire_come_first(scripted):
    """Against a network of the same weights that gives the affine part alone, one direction after the other."""
    network = lively(Fire(2, channels=4, blocks=1))
    affine = Fire(2, channels=4, blocks=1, part="affine").eval()
    affine.load_state_dict(network.state_dict())
    pair = torch.rand(1, 2, 16, 24)
    there, back = (torch.zeros(1, 2, 16, 24) for _ in range(2))
    with torch.no_grad():
        for part in (affine, affine, network, network):
            seen = torch.cat([warp(pair[:, :1], there), pair[:, 1:]], dim=1)
            turned = torch.cat([pair[:, :1], warp(pair[:, 1:], back)], dim=1)
            there = compose_ddf(there, part.bidirectional(seen)[0])
            back = compose_ddf(back, part.bidirectional(turned)[1])
    given: nn.Module = network
    if scripted:
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(network), file)
        file.seek(0)
        given = torch.jit.load(file)
    inferer = WholeVolumeInferer(passes=2, affine_passes=2)
    field = inferer(pair, bidirectional(given))
    torch.testing.assert_close(field, torch.cat([there, back], dim=1), atol=5e-3, rtol=0)
    # The network itself is left as it was.
    torch.testing.assert_close(given(pair), network(pair))
    assert (given(pair) - affine(pair)).abs().max() > 0.1


def test_a_network_without_an_affine_part():
    message = "affine_passes must be 0: Constant gives no affine part of its own"
    with pytest.raises(ValueError, match=message):
        WholeVolumeInferer(affine_passes=1)(torch.rand(1, 2, 8, 8), Constant(1.0, 0.0, margin=0))


def test_a_network_of_the_affine_part_alone_makes_affine_passes():
    network = lively(Fire(2, channels=4, blocks=1, part="affine"))
    pair, both = torch.rand(1, 2, 16, 16), bidirectional(network)
    expected = WholeVolumeInferer(passes=3)(pair, both)
    assert torch.equal(WholeVolumeInferer(passes=1, affine_passes=2)(pair, both), expected)


def test_values_that_are_not_finite_in_a_later_pass():
    fields = torch.zeros(1, 2, 8, 8), torch.full((1, 2, 8, 8), torch.inf)
    with pytest.raises(ValueError, match="Recorded: 128 of 128 values that this network gives are not finite"):
        WholeVolumeInferer(passes=2)(torch.rand(1, 2, 8, 8), Recorded(*fields))


def test_affine_passes_of_one_direction_are_those_of_both():
    """As in MONAI Label, whose app calls the network itself."""
    network = lively(Fire(2, channels=4, blocks=1))
    pair = torch.rand(1, 2, 16, 24)
    inferer = WholeVolumeInferer(affine_passes=2)
    torch.testing.assert_close(inferer(pair, network), inferer(pair, bidirectional(network))[:, :2], atol=1e-4, rtol=0)
