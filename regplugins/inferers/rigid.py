# SPDX-License-Identifier: Apache-2.0
"""Inferer of networks that predict a rigid transform."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from regplugins.checks import boolean, whole
from regplugins.inferers.base import NetworkInferer, check_finite
from regplugins.registration import Volume, refine_rigid
from regplugins.spatial import AffineTransform, Grid, rigid_transform, warp
from regplugins.transforms.timing import stage


class RigidInferer(NetworkInferer):
    """Compose a network's rigid transforms over several passes, and refine the result by mutual information.

    Args:
        passes: how often the network predicts. From the second pass on it gets the moving image resampled by the
            transforms of the passes before.
        refine_rigid: maximize the mutual information from the prediction and from the initial transform, and keep the
            better result.
        seed: of the samples of the mutual information.
        use_masks: refine within the pair's masks. False: ignore them, if they only mark the region of the evaluation.
        amp: compute convolutions in bfloat16, see ``NetworkInferer``.
        compile: compile the network, see ``NetworkInferer``.

    Raises:
        TypeError: if ``refine_rigid``, ``use_masks``, ``amp`` or ``compile`` is not a boolean.
        ValueError: if ``passes`` is not a whole number of at least 1.
    """

    def __init__(
        self,
        passes: int = 1,
        refine_rigid: bool = False,
        seed: int = 0,
        use_masks: bool = True,
        amp: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(amp, compile)
        self.passes = whole("passes", passes)
        self.refine_rigid = boolean("refine_rigid", refine_rigid)
        self.seed = seed
        self.use_masks = boolean("use_masks", use_masks)

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor, network: nn.Module, pair: MutableMapping[str, Any], *args: Any, **kwargs: Any
    ) -> AffineTransform:
        """
        Args:
            inputs: ``(1, 2, *spatial)``, moving and fixed image on the network grid.
            network: to ``(1, 6)`` rigid parameters about the grid's center, degrees and mm.
            pair: after ``ResamplePaird``. Gets ``network_transform``, the transform before the
                refinement, and the seconds of network and refinement.

        Returns:
            From the fixed to the moving world, RAS+ mm.

        Raises:
            ValueError: if the network's parameters are not finite.
        """
        with stage(pair, "network"):
            motion = self._predict(inputs.as_subclass(Tensor), network, pair["grid"])
        predicted = AffineTransform(pair["initial"].matrix @ motion.matrix)
        pair["network_transform"] = predicted
        if not self.refine_rigid:
            return predicted
        with stage(pair, "refine_rigid"):
            fixed, moving = self._volume(pair, "fixed"), self._volume(pair, "moving")
            # The initial transform is a second start, so that a wrong prediction cannot spoil a good one.
            return refine_rigid(fixed, moving, [predicted, pair["initial"]], self.seed)

    def _volume(self, pair: Mapping[str, Any], key: str) -> Volume:
        mask = pair.get(f"{key}_mask") if self.use_masks else None
        return Volume.prepare(key, pair[key], Grid.from_image(pair[key]), mask)

    def _predict(self, inputs: Tensor, network: nn.Module, grid: Grid) -> AffineTransform:
        """The network's transform in the fixed image's world."""
        # The parameters are in mm along the axes of the grid, not of the world.
        local = Grid(grid.shape, torch.diag(torch.cat([grid.spacing, grid.spacing.new_ones(1)])))
        to_local = AffineTransform(local.affine @ torch.linalg.inv(grid.affine))
        moving, fixed = inputs.split(1, dim=1)
        motion = AffineTransform.identity(grid.ndim)
        for number in range(self.passes):
            if number:
                field = motion.sample(local).to_ddf()[None].to(inputs)
                inputs = torch.cat([warp(moving, field), fixed], dim=1)
            with self._autocast(inputs):
                (parameters,) = self._network(network)(inputs)
            check_finite(parameters, network)
            motion = AffineTransform(motion.matrix @ rigid_transform(parameters.float(), local.center).matrix)
        return AffineTransform(torch.linalg.inv(to_local.matrix) @ motion.matrix @ to_local.matrix)
