# SPDX-License-Identifier: Apache-2.0
"""Modality independent neighborhood descriptors: local self-similarity, which images of two modalities share."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regplugins.checks import choice
from regplugins.losses._mind_fused import Difference, PatchLayout, variance_limits
from regplugins.losses._similarity import SimilarityLoss, check_rank, computing_dtype, normalized


class MIND(nn.Module):
    """Descriptor of every voxel's surroundings: the similarity of pairs of patches near it.

    The distance of an edge from offset a to offset b is that of the patches there, ``D(x) = sum_p w_p (I(x+a+p) -
    I(x+b+p))²``. The feature of the edge is ``exp(-D(x)/V(x))``, divided by the largest of all edges at x, with V the
    mean distance over the edges (Heinrich et al., *MIND: Modality independent neighborhood descriptor for multi-modal
    deformable registration*, Medical Image Analysis 16 (2012) 1423-1435; ``"ssc"``: Heinrich et al., *Toward realtime
    multimodal fusion for image-guided interventions using self-similarities*, MICCAI 2013). As in the authors'
    programs, V is kept within 0.001 and 1000 times its mean over the voxels, through which no gradient flows. Their
    later programs subtract the smallest D from V; here V is that of the paper. Features do not change when intensities
    are scaled, negated or shifted. The image continues from its border. Where all patches are alike, features are 1,
    with no gradient.

    Args:
        neighborhood: ``"mind"``, the center and each of its neighbors along the axes (2n edges: to +dilation and
            -dilation along the first axis, and so on), or ``"ssc"``, any two such neighbors that are not opposite
            (2n(n-1) edges: for each pair j < k of axes, +j+k, -j-k, -j+k, +j-k).
        radius: of a patch, whose side is ``2*radius + 1`` voxels.
        dilation: distance in voxels of the neighbors from the center.
        weighting: within a patch: ``"box"``, or ``"gaussian"`` with a standard deviation of a third of the side.

    Raises:
        ValueError: if an argument is not one of these.
    """

    def __init__(
        self,
        neighborhood: Literal["mind", "ssc"] = "ssc",
        radius: int = 1,
        dilation: int = 1,
        weighting: Literal["box", "gaussian"] = "box",
    ) -> None:
        super().__init__()
        choice("neighborhood", neighborhood, dict.fromkeys(("mind", "ssc")))
        if radius < 0 or radius != int(radius):
            raise ValueError(f"radius must be an integer of at least 0, got {radius}")
        if dilation < 1 or dilation != int(dilation):
            raise ValueError(f"dilation must be an integer of at least 1, got {dilation}")
        choice("weighting", weighting, dict.fromkeys(("box", "gaussian")))
        self.neighborhood = neighborhood
        self.radius = int(radius)
        self.dilation = int(dilation)
        self.weighting = weighting

    def extra_repr(self) -> str:
        options = f"radius={self.radius}, dilation={self.dilation}, weighting={self.weighting!r}"
        return f"neighborhood={self.neighborhood!r}, {options}"

    def layout(self, image: Tensor) -> PatchLayout:
        """Return the patches to compare in an image ``(B, C, *spatial)``."""
        return PatchLayout(image.shape[2:], self.neighborhood, self.radius, self.dilation, self.weighting)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the descriptors, in float32 whatever the autocast state (in float64 for a float64 image).

        They lie in [0, 1] and are ``(B, C * edges, *spatial)``: all those of the first channel of ``(B, C, *spatial)``,
        then those of the next. Errors are those of ``SimilarityLoss``.
        """
        check_rank(image, "image")
        if not image.is_floating_point():
            raise TypeError(f"image must be a floating-point tensor, got {image.dtype}")
        with torch.autocast(image.device.type, enabled=False):
            image = image.to(computing_dtype(image))
            layout = self.layout(image)
            row = layout.pad(image, "replicate").flatten(2)
            distances = layout.distances(
                layout.window_sum(layout.differences(row, *layout.read(layout.first, layout.last)).square())
            )
            # Back from a row: whole slices along the first axis, the first of which begins with the first voxel.
            slices = image.shape[2] * layout.strides[0]
            distances = F.pad(distances, (0, slices - distances.shape[-1])).unflatten(-1, (-1, *layout.padded[1:]))
            for axis, size in enumerate(image.shape[2:], start=3):
                distances = distances.narrow(axis, 0, size)
            variance = distances.mean(2, keepdim=True)
            space = tuple(range(2, variance.ndim))
            mean = variance.detach().mean(space, keepdim=True)
            limits = variance_limits(mean, row.detach()[..., :1].view_as(mean), layout)
            nearest = distances.amin(2, keepdim=True)
            return ((nearest - distances) / variance.clamp(*limits)).exp_().flatten(1, 2)


class MINDLoss(SimilarityLoss):
    """Mean difference, in [0, 1], of the descriptors ``MIND`` of two images, which may be of different modalities.

    It has no second derivative. A mask weights the differences of descriptors, not the voxels within a patch.

    Args:
        neighborhood, radius, dilation, weighting: as for ``MIND``.
        norm: ``"l1"``, the absolute difference (Eq. 5 of Xu et al., *Unsupervised multimodal image registration with
            adaptative gradient guidance*, ICASSP 2021), or ``"l2"``, the squared difference.
    """

    def __init__(
        self,
        neighborhood: Literal["mind", "ssc"] = "ssc",
        radius: int = 1,
        dilation: int = 1,
        weighting: Literal["box", "gaussian"] = "box",
        norm: Literal["l1", "l2"] = "l1",
    ) -> None:
        super().__init__()
        choice("norm", norm, dict.fromkeys(("l1", "l2")))
        self.descriptor = MIND(neighborhood, radius, dilation, weighting)
        self.norm = norm

    def extra_repr(self) -> str:
        return f"norm={self.norm!r}"

    def _loss(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        layout = self.descriptor.layout(pred)
        inside = layout.pad(torch.ones_like(pred[:1, :1]), "constant")
        if mask is None:
            weight = inside / (pred.shape[0] * pred.shape[2:].numel())
        else:
            weight = layout.pad(normalized(mask), "constant")
        weight = weight / (pred.shape[1] * len(layout.edges))
        # Padded outside of the function, so that autograd adds the gradients of the padding to the border.
        padded = (layout.pad(image, "replicate") for image in (pred, target))
        loss: Tensor = Difference.apply(*padded, weight, inside, layout, self.norm)
        return loss
