# SPDX-License-Identifier: Apache-2.0
"""Base class of registration networks, and the network of bundles that register without one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regplugins.spatial import compose_ddf, subsample_ddf, warp


class RegistrationNetwork(nn.Module):
    """Network on a pair ``(B, 2, *spatial)``, moving and fixed image.

    ``forward`` gives the tensor for inference: unless stated otherwise a displacement ``(B, n, *spatial)`` in voxels.
    ``forward`` and ``fields`` raise ``ValueError`` if the pair does not fit, as ``check`` does.

    Args:
        spatial_dims: 2 or 3, as of all parts of networks.
        stride: divisor of every spatial size of the pair.
    """

    def __init__(self, spatial_dims: int, stride: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.stride = stride

    def check(self, pair: Tensor) -> None:
        """Raise ``ValueError`` if the pair has not two channels, or a size that is not a multiple of ``stride``."""
        fits = pair.dim() == self.spatial_dims + 2 and pair.shape[1] == 2
        for size in pair.shape[2:]:
            fits = fits and size % self.stride == 0
        if not fits:
            raise ValueError(
                f"expected (B, 2, *spatial) with {self.spatial_dims} sizes that are multiples of {self.stride}, "
                f"got {pair.shape}"
            )

    def fields(self, pair: Tensor) -> Any:
        """Return the tensors for the training loss; their form is specific to the network and its objective."""
        return self(pair)

    def fields_of_passes(self, pair: Tensor, passes: int) -> Any:
        """Return the ``fields`` of several passes with the same weights, composed; gradients reach all passes.

        Let ``u`` be the first field of the passes before. The next pass gets ``moving∘(id + u)`` and the fixed image,
        and gives residual fields ``r_k``. The composed fields are ``r_k(x) + u(x + r_k(x))``. Where ``r_k`` has a
        coarser grid, ``u`` is subsampled.

        Args:
            pair: ``(B, 2, *spatial)``.
            passes: number of passes, at least 1.

        Raises:
            ValueError: if there are several passes and the first field is smaller than the pair.
        """
        fields = self.fields(pair)
        for _ in range(passes - 1):
            ddf = fields if isinstance(fields, Tensor) else fields[0]
            if ddf.shape[2:] != pair.shape[2:]:
                raise ValueError(
                    f"several passes need a field of the images' size {list(pair.shape[2:])}, got one of "
                    f"{list(ddf.shape[2:])}: train with --train_passes 1, or a network with padding"
                )
            residuals = self.fields(torch.cat([warp(pair[:, :1], ddf), pair[:, 1:]], dim=1))
            if isinstance(residuals, Tensor):
                fields = compose_ddf(ddf, residuals)
            else:
                fields = [compose_ddf(subsample_ddf(ddf, ddf.shape[2] // r.shape[2]), r) for r in residuals]
        return fields


class IdentityNetwork(nn.Module):
    """Network without weights that gives a zero displacement."""

    def forward(self, pair: Tensor) -> Tensor:
        """Return zeros ``(B, n, *spatial)`` for a pair ``(B, 2, *spatial)``."""
        return pair.new_zeros((len(pair), pair.dim() - 2, *pair.shape[2:]))
