# SPDX-License-Identifier: Apache-2.0
"""Base classes of inferers: precision, compilation, resolution, and a check for finite output."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import Tensor, nn

from regplugins.checks import boolean, positive


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
            self._compiled = {network: torch.compile(network)}
        return self._compiled[network]

    def _autocast(self, inputs: Tensor) -> torch.autocast:
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp)


class FieldInferer(NetworkInferer):
    """Inferer from a pair to its float32 displacement field on the same grid.

    Args:
        amp: compute convolutions in bfloat16, see ``NetworkInferer``.
        zoom: resolution of the network's images relative to the pair's. 0.5 shows a pair at 1 mm to a network trained
            at 2 mm, and resamples its field to 1 mm.
        compile: compile the network, see ``NetworkInferer``.

    Raises:
        TypeError: if ``amp`` or ``compile`` is not a boolean.
        ValueError: if ``zoom`` is not positive.
    """

    def __init__(self, amp: bool = False, zoom: float = 1.0, compile: bool = False) -> None:
        super().__init__(amp, compile)
        self.zoom = positive("zoom", zoom)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """
        Args:
            inputs: ``(B, 2, *spatial)``, moving and fixed image; any sizes.
            network: registration network.

        Returns:
            ``(B, n, *spatial)`` float32 displacement in voxels; ``2 n`` components of a bidirectional network.

        Raises:
            ValueError: if a displacement is not finite.
        """
        inputs = inputs.as_subclass(Tensor)  # MetaTensor records every operation
        own = list(inputs.shape[2:])
        zoomed = [max(1, round(size * self.zoom)) for size in own]
        with self._autocast(inputs):
            ddf = self._field(inputs if zoomed == own else _resized(inputs, zoomed), self._network(network)).float()
        check_finite(ddf, network)
        if zoomed == own:
            return ddf
        voxels = torch.tensor(own, device=ddf.device) / torch.tensor(zoomed, device=ddf.device)
        return _resized(ddf, own) * voxels.repeat(ddf.shape[1] // len(own)).view(-1, *[1] * len(own))

    @abstractmethod
    def _field(self, pair: Tensor, network: nn.Module) -> Tensor:
        """Displacement ``(B, n, *spatial)`` of a pair at the network's own resolution."""


def check_finite(output: Tensor, network: nn.Module) -> None:
    """Refuse what a network with damaged weights gives.

    Raises:
        ValueError: if a value is not finite; the message names the file of the weights and the bundle.
    """
    if not output.isfinite().all():
        name = getattr(network, "weights_name", type(network).__name__)
        count = int((~output.isfinite()).sum())
        raise ValueError(f"{name}: {count} of {output.numel()} values that this network gives are not finite")


def _resized(image: Tensor, shape: list[int]) -> Tensor:
    """Interpolate linearly to another number of voxels of the same field of view."""
    return F.interpolate(image, size=shape, mode="trilinear" if len(shape) == 3 else "bilinear")
