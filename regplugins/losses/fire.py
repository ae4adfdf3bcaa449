# SPDX-License-Identifier: Apache-2.0
"""Objective of FIRE (Wang et al. 2019, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from regplugins.checks import not_negative
from regplugins.losses.regularization import SquaredLaplacianLoss
from regplugins.spatial import compose_ddf

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
            Laplacian of a field at quarter resolution. Terms of weight 0 are left out.
        truth_weight: of the distances from a known warp (not in the paper): mean over the voxels, in voxels, for the
            whole and the affine transform of either direction.

    Raises:
        ValueError: if a term is unknown, or ``truth_weight`` is negative.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, truth_weight: float = 0.0) -> None:
        super().__init__()
        given = dict(weights or {})
        unknown = set(given) - set(TERMS)
        if unknown:
            raise ValueError(f"unknown terms {sorted(unknown)}, expected some of {TERMS}")
        self.weights = {**dict.fromkeys(TERMS, 1.0), _SMOOTHNESS: 0.1, **given}
        self.truth_weight = not_negative("truth_weight", truth_weight)
        self.laplacian = SquaredLaplacianLoss()

    def terms(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every term in use by name, unweighted, from the ``fields`` of ``regplugins.networks.Fire``."""
        result = {}
        for name, (first, second) in _COMPARED.items():
            if self.weights[name]:
                both = [(first.format(a=a, b=b), second.format(a=a, b=b)) for a, b in ("ab", "ba")]
                result[name] = sum((_rms(fields[one], fields[other]) for one, other in both), torch.zeros(()))
        if self.weights[_SMOOTHNESS]:
            result[_SMOOTHNESS] = self.laplacian(fields["nonrigid_ab"]) + self.laplacian(fields["nonrigid_ba"])
        return result

    def forward(self, fields: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar, of the ``fields`` of ``Fire``, which contain the images of ``target``.

        With ``truth_weight``, ``target`` has ``truth``, ``(B, n, *spatial)`` in voxels, as ``φ_AB``. Pairs in which it
        is NaN, not known, are left out of the distances.
        """
        terms = self.terms(fields)
        total: Tensor = sum((self.weights[name] * value for name, value in terms.items()), torch.zeros(()))
        if self.truth_weight:
            total = total + self.truth_weight * self._distance(fields, target["truth"])
        return total

    @staticmethod
    def _distance(fields: Mapping[str, Tensor], truth: Tensor) -> Tensor:
        """Sum of the mean distances from the truth, over the whole batch."""
        known = truth.flatten(1).isfinite().all(dim=1)
        total = truth.new_zeros(())
        for name in ("ddf", "affine_ddf") if known.any() else ():
            forward, backward = (fields[f"{name}_{way}"][known] for way in ("ab", "ba"))
            # The backward transform takes each point back from where the true one leads.
            for error in (forward - truth[known], compose_ddf(backward, truth[known])):
                total = total + torch.linalg.vector_norm(error, dim=1).mean() * known.float().mean()
        return total


def _rms(first: Tensor, second: Tensor) -> Tensor:
    squares = (first.float() - second.float()).square().flatten(1)
    return (squares.mean(dim=1) + _EPS).sqrt().mean()
