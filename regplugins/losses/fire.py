# SPDX-License-Identifier: Apache-2.0
"""Objective of FIRE (Wang et al. 2019, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from regplugins.losses.regularization import SquaredLaplacianLoss

# Network outputs that each term compares; ``{a}`` and ``{b}`` stand for either direction.
_COMPARED = {
    "synthesis_accuracy": ("synthesized_warped_{b}", "image_{b}"),
    "synthesis_feature": ("features_{b}", "features_warped_{a}"),
    "synthesis_cycle": ("restored_{a}", "image_{a}"),
    "synthesis_alignment": ("features_{a}", "features_synthesized_{b}"),
    "registration_accuracy": ("registered_{b}", "image_{b}"),
    "inverse_consistency": ("image_{a}", "cycled_{a}"),
    "affine_synthesis": ("synthesized_affine_{b}", "image_{b}"),
    "affine_registration": ("registered_affine_{b}", "image_{b}"),
}
_SMOOTHNESS = "smoothness"
TERMS = (*_COMPARED, _SMOOTHNESS)

# Keeps the derivative of a root finite where two images are equal.
_EPS = 1e-12


class FireLoss(nn.Module):
    """``L_syn + L_reg + R`` (Eqs. 1 to 4).

    ``L_syn`` has the terms ``synthesis_accuracy``, ``synthesis_feature``, ``synthesis_cycle`` and
    ``synthesis_alignment``; ``L_reg`` has ``registration_accuracy`` and ``inverse_consistency``; ``R`` has
    ``affine_synthesis``, ``affine_registration`` and ``smoothness``. Each is the sum of both directions. All but the
    smoothness are roots of mean squares, averaged over the batch.

    Args:
        weights: of terms, by name; default: 1, for the smoothness 0.1, the equivalent of λ for the mean squared
            Laplacian of a field at quarter resolution.

    Raises:
        ValueError: if a term is unknown.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        given = dict(weights or {})
        unknown = set(given) - set(TERMS)
        if unknown:
            raise ValueError(f"unknown terms {sorted(unknown)}, expected some of {TERMS}")
        self.weights = {**dict.fromkeys(TERMS, 1.0), _SMOOTHNESS: 0.1, **given}
        self.laplacian = SquaredLaplacianLoss()

    def terms(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every term by name, unweighted, from the ``fields`` of ``regplugins.networks.Fire``."""
        result = {}
        for name, (first, second) in _COMPARED.items():
            both = [(first.format(a=a, b=b), second.format(a=a, b=b)) for a, b in ("ab", "ba")]
            result[name] = sum((_rms(fields[one], fields[other]) for one, other in both), torch.zeros(()))
        result[_SMOOTHNESS] = self.laplacian(fields["nonrigid_ab"]) + self.laplacian(fields["nonrigid_ba"])
        return result

    def forward(self, fields: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar, of the ``fields`` of ``Fire``, which contain the images of ``target``."""
        terms = self.terms(fields)
        total: Tensor = sum((self.weights[name] * value for name, value in terms.items()), torch.zeros(()))
        return total


def _rms(first: Tensor, second: Tensor) -> Tensor:
    squares = (first.float() - second.float()).square().flatten(1)
    return (squares.mean(dim=1) + _EPS).sqrt().mean()
