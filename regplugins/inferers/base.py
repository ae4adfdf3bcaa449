# SPDX-License-Identifier: Apache-2.0
"""Base classes of inferers: precision, compilation, passes, and a check for finite output."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from regplugins.checks import boolean, whole
from regplugins.networks import affine_part
from regplugins.spatial import compose_ddf, warp

logger = logging.getLogger(__name__)


class NetworkInferer(Inferer):
    """Inferer that runs a network in a chosen precision, compiled or not.

    Args:
        amp: compute convolutions in bfloat16. Fast on GPUs and on CPUs that have it in hardware, slow elsewhere.
        compile: compile the network with ``torch.compile`` at first use. Each new image size compiles again.

    Raises:
        TypeError: if ``amp`` or ``compile`` is not a boolean.
    """

    def __init__(self, amp: bool = False, compile: bool = False) -> None:
        super().__init__()
        self.amp = boolean("amp", amp)
        self.compile = boolean("compile", compile)
        self._compiled: dict[nn.Module, Any] = {}

    def _network(self, network: nn.Module) -> Any:
        """The network, compiled if asked for."""
        if not self.compile:
            return network
        if network not in self._compiled:
            self._compiled[network] = torch.compile(network)
        return self._compiled[network]

    def _autocast(self, inputs: Tensor) -> torch.autocast:
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp)


class FieldInferer(NetworkInferer):
    """Inferer from a pair to its float32 displacement field on the same grid, in one or several passes.

    In each pass after the first, the moving image is warped through the field ``u`` of the passes before. The network
    gives the residual field ``r``, and the new field is ``r(x) + u(x + r(x))``. A bidirectional network gets the fixed
    image warped in the same way for its second direction.

    Args:
        amp: compute convolutions in bfloat16, see ``NetworkInferer``.
        compile: compile the network, see ``NetworkInferer``.
        passes: number of passes with the whole network.
        affine_passes: number of passes before them with the ``affine_part`` of the network.

    Raises:
        TypeError: if ``amp`` or ``compile`` is not a boolean.
        ValueError: if ``passes`` or ``affine_passes`` is not a whole number of at least 1 or 0.
    """

    def __init__(self, amp: bool = False, compile: bool = False, passes: int = 1, affine_passes: int = 0) -> None:
        super().__init__(amp, compile)
        self.passes = whole("passes", passes)
        self.affine_passes = whole("affine_passes", affine_passes, minimum=0)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """
        Args:
            inputs: ``(B, 2, *spatial)``, moving and fixed image; any sizes.
            network: registration network.
            kwargs: masks, which networks do not use: a warning says so.

        Returns:
            ``(B, n, *spatial)`` float32 displacement in voxels; ``2 n`` components of a bidirectional network.

        Raises:
            ValueError: if a displacement is not finite, or ``affine_passes`` is set and the network has no affine part.
        """
        if kwargs:
            logger.warning("%s: not used by the network, only by init and by refine", ", ".join(kwargs))
        pair = inputs.as_subclass(Tensor)  # MetaTensor records every operation
        networks = [affine_part(network)] * self.affine_passes if self.affine_passes else []
        first, *others = [*networks, *[network] * self.passes]
        ddf = self._residual(pair, first)
        for other in others:
            fields = list(ddf.split(pair.dim() - 2, dim=1))
            for direction, field in enumerate(fields):  # of the moving image (channel 0), of the fixed one (1)
                seen = pair.clone()
                seen[:, [direction]] = warp(pair[:, [direction]], field).to(pair)
                residual = self._residual(seen, other).split(pair.dim() - 2, dim=1)[direction]
                fields[direction] = compose_ddf(field, residual)
            ddf = torch.cat(fields, dim=1)
        return ddf

    def _residual(self, pair: Tensor, network: nn.Module) -> Tensor:
        """Displacement of one pass, float32 and finite."""
        with self._autocast(pair):
            ddf = self._field(pair, self._network(network)).float()
        check_finite(ddf, network)
        return ddf

    @abstractmethod
    def _field(self, pair: Tensor, network: nn.Module) -> Tensor:
        """Displacement ``(B, n, *spatial)`` of a pair."""


def check_finite(output: Tensor, network: nn.Module) -> None:
    """Refuse what a network with damaged weights gives.

    Raises:
        ValueError: if a value is not finite; the message names the file of the weights and the bundle.
    """
    if not output.isfinite().all():
        name = getattr(network, "weights_name", type(network).__name__)
        count = int((~output.isfinite()).sum())
        raise ValueError(f"{name}: {count} of {output.numel()} values that this network gives are not finite")
