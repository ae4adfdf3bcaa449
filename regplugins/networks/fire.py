# SPDX-License-Identifier: Apache-2.0
"""FIRE: synthesis of either modality from the other, with affine and non-rigid transforms in both directions.

Wang et al. 2019, arXiv:1907.05062.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regplugins.checks import choice, whole
from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.synthesis import SynthesisDecoder, SynthesisEncoder
from regplugins.networks.transformation import TransformationNetwork, after_affine
from regplugins.spatial import compose_ddf, subsample_ddf, upsample_ddf, warp

logger = logging.getLogger(__name__)


class Fire(RegistrationNetwork):
    """Encoder, a decoder to either modality, and a transformation network in either direction.

    The moving image is ``A``, the fixed one ``B``; ``φ_AB`` warps ``A`` to ``B``'s grid. Images are in [0, 1].

    Args:
        channels: kernels of encoder and decoders at full resolution; features have four times as many.
        blocks: residual blocks of encoder and decoders.
        part: ``forward`` gives "both" parts, or the "affine" one alone.
        keypoints: the affine parts are ``AffineKeypoints``; False: ``AffineRegression``, the paper's.
        synthesis: ``fields`` has "all" images, or only those that are made of "warped" features, which takes a quarter
            of the time.
        affine_passes: before its passes ``fields`` brings the images together by up to so many of the affine part,
            drawn at random, without a gradient.

    Raises:
        TypeError: if ``keypoints`` is not a boolean.
        ValueError: if ``part`` or ``synthesis`` is unknown, or ``affine_passes`` is negative.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: int = 16,
        blocks: int = 4,
        part: str = "both",
        keypoints: bool = True,
        synthesis: str = "all",
        affine_passes: int = 0,
    ) -> None:
        super().__init__(spatial_dims, stride=4)
        self.affine_alone = choice("part", part, {"both": False, "affine": True})
        self.warped_alone = choice("synthesis", synthesis, {"all": False, "warped": True})
        self.affine_passes = whole("affine_passes", affine_passes, minimum=0)
        self.encoder = SynthesisEncoder(spatial_dims, channels, blocks)
        self.decoder_ab = SynthesisDecoder(spatial_dims, channels, blocks)
        self.decoder_ba = SynthesisDecoder(spatial_dims, channels, blocks)
        self.transform_ab = TransformationNetwork(spatial_dims, 4 * channels, keypoints)
        self.transform_ba = TransformationNetwork(spatial_dims, 4 * channels, keypoints)

    def forward(self, pair: Tensor) -> Tensor:
        """Return ``φ_AB``, the displacement of the affine and non-rigid part together."""
        a, b = self._encoded(pair)
        return self.transform_ab.ddf(a, b, self.affine_alone)

    @torch.jit.export
    def bidirectional(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``φ_AB`` and ``φ_BA``, each as ``forward`` gives it."""
        a, b = self._encoded(pair)
        return self.transform_ab.ddf(a, b, self.affine_alone), self.transform_ba.ddf(b, a, self.affine_alone)

    def _encoded(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the moving and of the fixed image."""
        self.check(pair)
        return self.encoder(2 * pair[:, :1] - 1), self.encoder(2 * pair[:, 1:] - 1)

    @torch.jit.export
    def synthesize(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image in the other modality, moving and fixed: two of ``(B, 1, *spatial)``."""
        a, b = self._encoded(pair)
        return (self.decoder_ab(a) + 1) / 2, (self.decoder_ba(b) + 1) / 2

    def fields(self, pair: Tensor) -> dict[str, Tensor]:
        """Return all tensors by name, as ``fields_of_passes`` does for one pass."""
        return self.fields_of_passes(pair, 1)

    def fields_of_passes(self, pair: Tensor, passes: int) -> dict[str, Tensor]:
        """Return all tensors by name, ``(B, …)`` each; names exist in both directions, with "ab" and "a" swapped.

        Transforms: ``affine_ab``, ``(n, n + 1)`` as of ``AffineKeypoints``; ``determinant_ab``, of its matrix;
        ``nonrigid_ab``, ``(n, *spatial / 4)``; ``ddf_ab`` and ``affine_ddf_ab``, ``(n, *spatial)``, whole and affine
        part.

        Images in [-1, 1]: ``image_a``; ``warped_a`` and ``affine_a``, warped by either; ``cycled_a``, warped by
        ``φ_AB`` and back by ``φ_BA``.

        Features: ``features_a``, ``G(A)``; ``features_warped_a`` and ``features_affine_a``, warped by either;
        ``features_synthesized_b``, of ``synthesized_b``.

        Images of modality ``B`` from ``A``'s features: ``synthesized_b`` of ``G(A)``; ``synthesized_warped_b`` and
        ``synthesized_affine_b`` of warped ``G(A)``; ``registered_b`` of ``G(warped_a)``; ``registered_affine_b`` of
        ``G(affine_a)``. ``restored_a`` is ``A`` made of ``synthesized_b``.

        In each pass after the first, ``φ_AB`` gets ``warped_a`` and ``image_b``, ``φ_BA`` gets ``warped_b`` and
        ``image_a``. With ``u`` of the passes before and ``r`` of the last one, ``ddf_ab`` is ``r(x) + u(x + r(x))``.
        ``affine_ddf_ab`` is the same for the affine part of ``r``. ``nonrigid_ab`` is then ``ddf_ab`` on the grid of
        the features: the Laplacian of its affine part is zero. ``affine_ab`` and ``determinant_ab`` are of the last
        pass, and ``features_warped_a`` and ``features_affine_a`` are of the features that it got.
        """
        self.check(pair)
        result = self._transforms(pair, passes)
        if self.warped_alone:
            made_b = self.decoder_ab(result["features_warped_a"])
            made_a = self.decoder_ba(result["features_warped_b"])
            return result | {"synthesized_warped_b": made_b, "synthesized_warped_a": made_a}
        sources = [result[name] for name in ("warped_a", "affine_a", "warped_b", "affine_b")]
        again = self._each(self.encoder, *sources)
        for own, other, encoded in (("a", "b", again[:2]), ("b", "a", again[2:])):
            decoder = self.decoder_ab if own == "a" else self.decoder_ba
            sources = [result[f"features{kind}_{own}"] for kind in ("", "_warped", "_affine")]
            names = ["synthesized", "synthesized_warped", "synthesized_affine", "registered", "registered_affine"]
            made = self._each(decoder, *sources, *encoded)
            result |= {f"{name}_{other}": image for name, image in zip(names, made, strict=True)}
            cycle = compose_ddf(result[f"ddf_{own}{other}"], result[f"ddf_{other}{own}"])
            result[f"cycled_{own}"] = warp(result[f"image_{own}"], cycle)
        made_b, made_a = self._each(self.encoder, result["synthesized_b"], result["synthesized_a"])
        result |= {"features_synthesized_b": made_b, "features_synthesized_a": made_a}
        return result | {"restored_a": self.decoder_ba(made_b), "restored_b": self.decoder_ab(made_a)}

    def _transforms(self, pair: Tensor, passes: int) -> dict[str, Tensor]:
        """Transforms in both directions, and images and features before and after them; named as in ``fields``."""
        result = {"image_a": 2 * pair[:, :1] - 1, "image_b": 2 * pair[:, 1:] - 1}
        features = self._each(self.encoder, result["image_a"], result["image_b"])
        result |= {"features_a": features[0], "features_b": features[1]}
        affine_passes = int(torch.randint(self.affine_passes + 1, ())) if self.affine_passes else 0
        for number in range(affine_passes + passes):
            is_affine = number < affine_passes
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_affine):
                if number:
                    features = self._each(self.encoder, result["warped_a"], result["warped_b"])
                for way, moving in zip(("ab", "ba"), features, strict=True):
                    result |= self._transform(way, moving, result)
                    if is_affine:
                        result[f"ddf_{way}"] = result[f"affine_ddf_{way}"]
                        result[f"warped_{way[0]}"] = result[f"affine_{way[0]}"]
            if is_affine:  # before PyTorch 2.10 the rounded weights would be kept without their gradient
                torch.clear_autocast_cache()
        return result

    def _transform(self, way: str, moving: Tensor, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One direction of one pass from moving features, composed with the pass before."""
        own, other = way[0], way[1]
        network = self.transform_ab if own == "a" else self.transform_ba
        affine, nonrigid, through_affine = network(moving, before[f"features_{other}"])
        full = upsample_ddf(nonrigid, 4)
        features_warped = warp(moving, after_affine(affine, nonrigid, 4))
        ddf, affine_ddf = after_affine(affine, full), after_affine(affine, torch.zeros_like(full))
        if f"ddf_{way}" in before:
            ddf, affine_ddf = (compose_ddf(before[f"ddf_{way}"], residual) for residual in (ddf, affine_ddf))
            nonrigid = subsample_ddf(ddf, 4)
        return {
            f"affine_{way}": affine,
            f"determinant_{way}": torch.linalg.det(affine[:, :, :-1]),
            f"nonrigid_{way}": nonrigid,
            f"ddf_{way}": ddf,
            f"affine_ddf_{way}": affine_ddf,
            f"warped_{own}": warp(before[f"image_{own}"], ddf),
            f"affine_{own}": warp(before[f"image_{own}"], affine_ddf),
            f"features_warped_{own}": features_warped,
            f"features_affine_{own}": through_affine,
        }

    @staticmethod
    def _each(network: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs of a network for several inputs of one shape, in one batch."""
        chunks: tuple[Tensor, ...] = network(torch.cat(inputs)).chunk(len(inputs))
        return chunks


def bidirectional(network: nn.Module) -> nn.Module:
    """Wrap a network so that ``forward`` gives the fields of both directions.

    Args:
        network: ``Fire``, or an exported one. One with a single direction, as an ONNX file has, is returned as it is,
            with a warning.
    """
    if hasattr(network, "bidirectional"):
        return _Bidirectional(network)
    logger.warning("%s: gives a single direction", getattr(network, "path", type(network).__name__))
    return network


def affine_part(network: nn.Module) -> nn.Module:
    """Network that gives the affine part alone, with the same weights.

    Args:
        network: ``Fire``, or of ``bidirectional``.

    Raises:
        ValueError: if the network has no affine part, or is an exported one that gives a single field.
    """
    if isinstance(network, _Bidirectional):
        return network.affine_part or network
    if isinstance(network, Fire):
        return _affine_alone(network)
    name = getattr(network, "path", type(network).__name__)
    raise ValueError(f"affine_passes must be 0: {name} gives no affine part of its own")


def _affine_alone(network: Any) -> Any:
    """Network with the same modules that gives the affine part alone."""
    affine = copy.copy(network)
    affine.affine_alone = True
    return affine


class _Bidirectional(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        self.stride = self.network.stride
        self.affine_part: nn.Module | None = None
        if not self.network.affine_alone:
            self.affine_part = _Bidirectional(_affine_alone(self.network))
        self.weights_name = getattr(network, "weights_name", type(network).__name__)

    def forward(self, pair: Tensor) -> Tensor:
        """Return the displacement ``(B, 2 n, *spatial)`` in voxels, moving to fixed image and back."""
        return torch.cat(self.network.bidirectional(pair), dim=1)
