# SPDX-License-Identifier: Apache-2.0
"""FIRE: synthesis of either modality from the other, and affine and non-rigid transforms both ways (Wang et al. 2019,
arXiv:1907.05062).
"""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from regplugins.checks import boolean
from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.blocks import Regression
from regplugins.spatial import compose, enlarge, identity_grid, warp


def _convolution(
    spatial_dims: int, in_channels: int, out_channels: int, strides: int = 1, up: bool = False, act: str | None = "RELU"
) -> Convolution:
    """Convolution (kernel 3), instance normalisation, activation; transposed if ``up``."""
    return Convolution(
        spatial_dims, in_channels, out_channels, strides=strides, norm="INSTANCE", act=act, is_transposed=up
    )


class ResidualBlock(nn.Module):
    """Two convolutions with instance normalisation, added to what goes in; ``(B, channels, *spatial)`` to the like."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _convolution(spatial_dims, channels, channels), _convolution(spatial_dims, channels, channels, act=None)
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.block(features)


class SynthesisEncoder(nn.Sequential):
    """``G``: an image ``(B, 1, *spatial)`` to features ``(B, 4 channels, *spatial / 4)`` that do not tell its modality.

    Args:
        spatial_dims: 2 or 3.
        channels: kernels at full resolution; twice and four times as many after either convolution of stride 2.
        blocks: residual blocks at quarter resolution.
    """

    def __init__(self, spatial_dims: int, channels: int, blocks: int) -> None:
        super().__init__(
            _convolution(spatial_dims, 1, channels),
            _convolution(spatial_dims, channels, 2 * channels, strides=2),
            _convolution(spatial_dims, 2 * channels, 4 * channels, strides=2),
            *[ResidualBlock(spatial_dims, 4 * channels) for _ in range(blocks)],
        )


class SynthesisDecoder(nn.Sequential):
    """``F``: features ``(B, 4 channels, *spatial / 4)`` to an image ``(B, 1, *spatial)`` in [-1, 1].

    Args:
        spatial_dims: 2 or 3.
        channels: kernels at full resolution.
        blocks: residual blocks at quarter resolution.
    """

    def __init__(self, spatial_dims: int, channels: int, blocks: int) -> None:
        super().__init__(
            *[ResidualBlock(spatial_dims, 4 * channels) for _ in range(blocks)],
            _convolution(spatial_dims, 4 * channels, 2 * channels, strides=2, up=True),
            _convolution(spatial_dims, 2 * channels, channels, strides=2, up=True),
            Convolution(spatial_dims, channels, 1, conv_only=True),
            nn.Tanh(),
        )


class AffineNetwork(nn.Module):
    """``T_af``: features of a moving and a fixed image to an affine map that cannot collapse.

    Two convolutions of stride 2, their average over the image, two linear layers. The matrix is the identity and
    something bounded such that it stays diagonally dominant: its determinant is positive.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        # Without normalisation: the average over the image of what was normalised over it tells nothing.
        self.localisation = nn.Sequential(
            *[
                Convolution(spatial_dims, width, channels, strides=2, norm=None, act="RELU")
                for width in (2 * channels, channels)
            ]
        )
        self.hidden = nn.Linear(channels, channels)
        self.parameters_of = nn.Linear(channels, spatial_dims * (spatial_dims + 1))
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)
        # The rows of the matrix less the identity sum up to less than one. In 3-D that is 17 degrees, 0.7 to 1.3 times.
        self.change = 0.9 / spatial_dims
        # How far the image is shifted at most, in units of its largest size.
        self.shift = 0.25

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)``.
            fixed: the same.

        Returns:
            ``(B, n, n + 1)``: the matrix and the shift, in units of the image's largest size, of a map about the
            image's centre.
        """
        n = self.spatial_dims
        features = self.localisation(torch.cat([moving, fixed], dim=1)).float().flatten(2).mean(dim=2)
        bounded = torch.tanh(self.parameters_of(torch.relu(self.hidden(features)))).view(-1, n, n + 1)
        matrix = torch.eye(n, device=bounded.device) + self.change * bounded[:, :, :n]
        return torch.cat([matrix, self.shift * bounded[:, :, n:]], dim=2)


class NonRigidNetwork(nn.Module):
    """``T_nr``: features of an affinely warped moving image and of a fixed one to a displacement.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.moving = _convolution(spatial_dims, channels, channels)
        self.fixed = _convolution(spatial_dims, channels, channels)
        self.both = nn.Sequential(
            _convolution(spatial_dims, 2 * channels, channels), _convolution(spatial_dims, channels, channels)
        )
        self.regression = Regression(spatial_dims, channels)
        # How far a voxel is moved at most, in sizes of the image: one in normalised coordinates.
        self.reach = 0.5

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)`` after the affine map.
            fixed: features of the same shape.

        Returns:
            ``(B, n, *spatial / 4)`` displacement in voxels of that grid.
        """
        features = self.both(torch.cat([self.moving(moving), self.fixed(fixed)], dim=1))
        normalised = torch.tanh(self.regression(features))
        shape = torch.tensor(normalised.shape[2:], device=normalised.device).to(normalised.dtype)
        return (normalised.movedim(1, -1) * (self.reach * shape)).movedim(-1, 1)


class TransformationNetwork(nn.Module):
    """``T``: an affine and a non-rigid part, ``φ = φ_af ∘ φ_nr``, from features of a moving and a fixed image.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.affine = AffineNetwork(spatial_dims, channels)
        self.nonrigid = NonRigidNetwork(spatial_dims, channels)

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)``.
            fixed: the same.

        Returns:
            Affine parameters ``(B, n, n + 1)`` and the non-rigid displacement ``(B, n, *spatial / 4)`` in voxels of
            that grid.
        """
        affine = self.affine(moving, fixed)
        still = torch.zeros_like(moving[:, : affine.shape[1]], dtype=torch.float32)
        return affine, self.nonrigid(warp(moving, after_affine(affine, still, 4)), fixed)


class Fire(RegistrationNetwork):
    """Five networks: an encoder, a decoder to either modality, a transformation network in either direction.

    Of a pair the moving image is ``A`` and the fixed one ``B``. ``φ_AB`` brings ``A`` onto ``B``'s grid.

    Args:
        spatial_dims: 2 or 3.
        channels: kernels of encoder and decoders at full resolution; features have four times as many.
        blocks: residual blocks of encoder and decoders.
        reverse: ``forward`` gives ``φ_BA``, which brings the fixed image onto the moving one's grid.

    Raises:
        TypeError: ``reverse`` is no boolean.
    """

    def __init__(self, spatial_dims: int = 3, channels: int = 16, blocks: int = 4, reverse: bool = False) -> None:
        super().__init__(spatial_dims, stride=4)
        self.reverse = boolean("reverse", reverse)
        self.encoder = SynthesisEncoder(spatial_dims, channels, blocks)
        self.decoder_ab = SynthesisDecoder(spatial_dims, channels, blocks)
        self.decoder_ba = SynthesisDecoder(spatial_dims, channels, blocks)
        self.transform_ab = TransformationNetwork(spatial_dims, 4 * channels)
        self.transform_ba = TransformationNetwork(spatial_dims, 4 * channels)

    def forward(self, pair: Tensor) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image in [0, 1]; every size a multiple of 4.

        Returns:
            ``(B, n, *spatial)`` displacement in voxels, affine and non-rigid together.

        Raises:
            ValueError: not two channels, or a size that is no multiple of 4.
        """
        self.check(pair)
        a, b = self.encoder(2 * pair[:, :1] - 1), self.encoder(2 * pair[:, 1:] - 1)
        if self.reverse:
            affine, nonrigid = self.transform_ba(b, a)
        else:
            affine, nonrigid = self.transform_ab(a, b)
        return after_affine(affine, enlarge(nonrigid, 4))

    def fields(self, pair: Tensor) -> dict[str, Tensor]:
        """
        Args:
            pair: as for ``forward``.

        Returns:
            By name, ``(B, …)`` each; for every name with "ab" or an "a" there is its like of the other direction.
            ``affine_ab``: ``(n, n + 1)`` as ``AffineNetwork`` gives it; ``nonrigid_ab``: ``(n, *spatial / 4)``;
            ``ddf_ab``, ``affine_ddf_ab``: ``(n, *spatial)``, whole and affine part; ``image_a``: the image in [-1, 1];
            ``warped_a``, ``affine_a``: it through either; ``cycled_a``: it through ``φ_AB`` and back through ``φ_BA``.
            ``features_a``: ``G(A)``; ``features_warped_a``, ``features_affine_a``: it through either;
            ``features_synthesised_b``: ``G`` of ``B`` made of ``A``. Images ``(1, *spatial)`` made of ``A``'s features,
            all of modality ``B``: ``synthesised_b`` of ``G(A)``; ``synthesised_warped_b`` of ``G(A)`` through ``φ_AB``;
            ``synthesised_affine_b`` of ``G(A)`` through the affine part; ``registered_b`` of ``G`` of ``warped_a``;
            ``registered_affine_b`` of ``G`` of ``affine_a``; and ``restored_a``, ``A`` made of ``synthesised_b``.
        """
        self.check(pair)
        images = {"a": 2 * pair[:, :1] - 1, "b": 2 * pair[:, 1:] - 1}
        features = dict(zip("ab", self._each(self.encoder, images["a"], images["b"]), strict=True))
        result: dict[str, Tensor] = {}
        moved: dict[str, list[Tensor]] = {}
        for own, other in ("ab", "ba"):
            network = self.transform_ab if own == "a" else self.transform_ba
            affine, nonrigid = network(features[own], features[other])
            full, still = enlarge(nonrigid, 4), torch.zeros_like(nonrigid)
            ddf, affine_ddf = after_affine(affine, full), after_affine(affine, torch.zeros_like(full))
            moved[own] = [warp(images[own], field) for field in (ddf, affine_ddf)]
            result |= {
                f"affine_{own}{other}": affine,
                f"nonrigid_{own}{other}": nonrigid,
                f"ddf_{own}{other}": ddf,
                f"affine_ddf_{own}{other}": affine_ddf,
                f"image_{own}": images[own],
                f"warped_{own}": moved[own][0],
                f"affine_{own}": moved[own][1],
                f"features_{own}": features[own],
                f"features_warped_{own}": warp(features[own], after_affine(affine, nonrigid, 4)),
                f"features_affine_{own}": warp(features[own], after_affine(affine, still, 4)),
            }
        again = self._each(self.encoder, *moved["a"], *moved["b"])
        for own, other, encoded in (("a", "b", again[:2]), ("b", "a", again[2:])):
            decoder = self.decoder_ab if own == "a" else self.decoder_ba
            sources = [result[f"features{kind}_{own}"] for kind in ("", "_warped", "_affine")]
            names = ["synthesised", "synthesised_warped", "synthesised_affine", "registered", "registered_affine"]
            made = self._each(decoder, *sources, *encoded)
            result |= {f"{name}_{other}": image for name, image in zip(names, made, strict=True)}
            cycle = compose(result[f"ddf_{own}{other}"], result[f"ddf_{other}{own}"])
            result[f"cycled_{own}"] = warp(images[own], cycle)
        made_b, made_a = self._each(self.encoder, result["synthesised_b"], result["synthesised_a"])
        result |= {"features_synthesised_b": made_b, "features_synthesised_a": made_a}
        return result | {"restored_a": self.decoder_ba(made_b), "restored_b": self.decoder_ab(made_a)}

    @staticmethod
    def _each(network: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What a network makes of several inputs of one shape, in one go."""
        chunks: tuple[Tensor, ...] = network(torch.cat(inputs)).chunk(len(inputs))
        return chunks


def after_affine(affine: Tensor, ddf: Tensor, step: int = 1) -> Tensor:
    """Displacement of an affine map after that of a field: ``φ_af ∘ φ_nr``, without interpolation.

    Args:
        affine: ``(B, n, n + 1)``, matrix and shift, in units of an image's largest size, of a map about the image's
            centre.
        ddf: ``(B, n, *spatial / step)`` in voxels of a grid whose voxel ``i`` lies on voxel ``step * i`` of the image.
        step: 1 for the image's own grid.

    Returns:
        ``(B, n, *spatial / step)`` in the same voxels.
    """
    shape = ddf.shape[2:]
    n = len(shape)
    grid = identity_grid(list(shape), ddf.device, ddf.dtype)
    sizes = torch.tensor(shape, device=ddf.device).to(ddf.dtype)
    centre = ((step * sizes - 1) / (2 * step)).view(n, 1)
    identity = torch.eye(n, device=ddf.device, dtype=ddf.dtype)
    centred = (grid + ddf).flatten(2) - centre
    change = torch.matmul(affine[:, :, :n] - identity, centred) + affine[:, :, n:] * sizes.max()
    return ddf + change.view(ddf.shape)
