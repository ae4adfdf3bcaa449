# SPDX-License-Identifier: Apache-2.0
"""Modality independent neighborhood descriptors: the local self-similarity that images of two modalities share."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from regplugins.losses._images import ROUNDING_ERRORS, check_image, check_images, computing_dtype, normalized
from regplugins.losses._patches import Buffers, PatchLayout

__all__ = ["MIND", "MINDLoss"]

# The limits on the variance at a voxel, as multiples of its mean over the image: those of the authors' own programs.
_MIN_VARIANCE, _MAX_VARIANCE = 1e-3, 1e3

# Voxels to work on at a time. What there is of them for all edges should stay in the cache of a processor, yet overlaps
# with the neighbors and the start of each operation should take little of the time.
_SLAB = {"cpu": 2**17, "cuda": 2**19}


class _Neighborhood(nn.Module):
    """The arguments that the descriptors and the loss share: which patches are compared."""

    def __init__(
        self,
        neighborhood: Literal["mind", "ssc"] = "ssc",
        radius: int = 1,
        dilation: int = 1,
        weighting: Literal["box", "gaussian"] = "box",
    ) -> None:
        super().__init__()
        if neighborhood not in ("mind", "ssc"):
            raise ValueError(f"neighborhood must be 'mind' or 'ssc', got {neighborhood!r}")
        if radius < 0 or radius != int(radius):
            raise ValueError(f"radius must be an integer of at least 0, got {radius}")
        if dilation < 1 or dilation != int(dilation):
            raise ValueError(f"dilation must be an integer of at least 1, got {dilation}")
        if weighting not in ("box", "gaussian"):
            raise ValueError(f"weighting must be 'box' or 'gaussian', got {weighting!r}")
        self.neighborhood = neighborhood
        self.radius = int(radius)
        self.dilation = int(dilation)
        self.weighting = weighting

    def extra_repr(self) -> str:
        options = f"radius={self.radius}, dilation={self.dilation}, weighting={self.weighting!r}"
        return f"neighborhood={self.neighborhood!r}, {options}"

    def _layout(self, image: Tensor) -> PatchLayout:
        return PatchLayout(image.shape[2:], self.neighborhood, self.radius, self.dilation, self.weighting)


class MIND(_Neighborhood):
    """The descriptor of every voxel's surroundings: how much a patch resembles another, for some pairs of patches.

    The distance of an edge from offset a to offset b is that between the patches there, ``D(x) = sum_p w_p (I(x+a+p) -
    I(x+b+p))²``, and the feature of the edge ``exp(-D(x)/V(x))``, divided by the largest of all edges at x. V is the
    mean distance over the edges. (Heinrich et al., *MIND: Modality independent neighborhood descriptor for
    multi-modal deformable registration*, Medical Image Analysis 16 (2012) 1423-1435; the edges of ``"ssc"`` are those
    of Heinrich et al., *Toward realtime multimodal fusion for image-guided interventions using self-similarities*,
    MICCAI 2013.) V is kept, as in the authors' programs, within 0.001 and 1000 times its mean over the voxels, through
    which no gradient flows. The features hence do not change when intensities are scaled, negated or shifted.
    The image continues from its border. Where all patches are alike, features are 1, with no gradient.

    The authors' later programs take for V the mean over the edges of D less the smallest D; here it is that of the
    paper.

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

    def forward(self, image: Tensor) -> Tensor:
        """Compute the descriptors, in float32 whatever the autocast state (in float64 for a float64 image).

        Args:
            image: (B, C, *spatial), of two or three axes.

        Returns:
            Features in [0, 1], (B, C * edges, *spatial): all those of the first channel, then those of the next.

        Raises:
            ValueError: if the shape is not that of an image.
            TypeError: if the image is not of a floating-point type.
        """
        check_image(image)
        with torch.autocast(image.device.type, enabled=False):
            image = image.to(computing_dtype(image))
            layout = self._layout(image)
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
            limits = _limits(mean, row.detach()[..., :1].view_as(mean), layout)
            nearest = distances.amin(2, keepdim=True)
            return ((nearest - distances) / variance.clamp(*limits)).exp_().flatten(1, 2)


class MINDLoss(_Neighborhood):
    """The mean difference of the descriptors `MIND` of two images, which may be of different modalities.

    The gradient is written out rather than recorded by autograd, and computed along with the value, a slab of the image
    at a time: between forward and backward only the gradient itself is kept. It has no second derivative.

    Args:
        neighborhood, radius, dilation, weighting: as `MIND` takes them.
        norm: ``"l1"``, the absolute difference (Eq. 5 of Xu et al., *Unsupervised multimodal image
            registration with adaptative gradient guidance*, ICASSP 2021), or ``"l2"``, the squared difference.

    Raises:
        ValueError: if an argument is not one of these.
    """

    def __init__(
        self,
        neighborhood: Literal["mind", "ssc"] = "ssc",
        radius: int = 1,
        dilation: int = 1,
        weighting: Literal["box", "gaussian"] = "box",
        norm: Literal["l1", "l2"] = "l1",
    ) -> None:
        super().__init__(neighborhood, radius, dilation, weighting)
        if norm not in ("l1", "l2"):
            raise ValueError(f"norm must be 'l1' or 'l2', got {norm!r}")
        self.norm = norm

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, norm={self.norm!r}"

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the loss, in float32 whatever the autocast state (in float64 for float64 images).

        Args:
            pred: the warped image, (B, C, *spatial).
            target: the fixed image, of the same shape.
            mask: the weight of each voxel's descriptor, (B, 1, *spatial), at least 0; ``None`` weights all alike. It
                weights the differences of descriptors, not the voxels within a patch.

        Returns:
            The (weighted) mean difference over batch, features and voxels: a scalar in [0, 1].

        Raises:
            ValueError: if the shapes do not fit.
            TypeError: if an image is not of a floating-point type.
        """
        check_images(pred, target, mask)
        dtype = computing_dtype(pred, target)
        with torch.autocast(pred.device.type, enabled=False):
            layout = self._layout(pred)
            inside = layout.pad(torch.ones_like(pred[:1, :1], dtype=dtype), "constant")
            if mask is None:
                weight = inside / (pred.shape[0] * pred.shape[2:].numel())
            else:
                weight = layout.pad(normalized(mask.detach().to(dtype)), "constant")
            weight = weight / (pred.shape[1] * len(layout.edges))
            # Padded outside of the function, so that autograd adds up what reaches the border from beyond it.
            padded = (layout.pad(image.to(dtype), "replicate") for image in (pred, target))
            loss: Tensor = _Difference.apply(*padded, weight, inside, layout, self.norm)
            return loss


class _Difference(torch.autograd.Function):
    """The loss and, while the descriptors are at hand, its gradients with respect to the padded images.

    With K edges, Y_c = (min D - D_c) / V, the features M_c = exp(Y_c), w the weight of the voxel and G_c the derivative
    of the norm (of opposite signs for the two images), the gradient with respect to the distance of an edge is

        d loss / dD_c = w/V (-G_c M_c + [D_c = min D] S - [V within its limits] 1/K sum_e G_e M_e Y_e),

    S being the sum of G_e M_e over all edges, shared evenly if there are several nearest patches. It goes back where
    the distances came from: to the maps, by the (self-adjoint) sum over patches to the squared differences, and by
    these to the image.
    """

    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, target: Tensor, weight: Tensor, inside: Tensor, layout: PatchLayout, norm: str
    ) -> Tensor:
        rows = pred.flatten(2), target.flatten(2)
        wanted = ctx.needs_input_grad[:2]
        gradients = [torch.zeros_like(row) if needed else None for row, needed in zip(rows, wanted, strict=True)]
        weight = weight.flatten(1).expand(len(pred), -1)
        coverage = _coverage(inside.flatten(), layout)
        buffers = Buffers(pred)
        loss = weight.new_zeros(())
        for sample in range(pred.shape[0]):
            for channel in range(pred.shape[1]):
                images = torch.stack([row[sample, channel] for row in rows])
                mean = _mean_distance(images, coverage, layout, buffers)
                limits = _limits(mean, images[:, :1], layout)
                for first, last in _slabs(layout.first, layout.last, pred.device):
                    slab = _Slab(images, first, last, limits, layout, buffers)
                    share = weight[sample, first:last]
                    loss += slab.compare(norm, share)
                    for index, gradient in enumerate(gradients):
                        if gradient is not None:
                            slab.differentiate(index, share, gradient[sample, channel])
        ctx.save_for_backward(*(gradient if gradient is None else gradient.view_as(pred) for gradient in gradients))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        pred, target = (None if gradient is None else gradient * grad_output for gradient in ctx.saved_tensors)
        return pred, target, None, None, None, None


def _slabs(first: int, last: int, device: torch.device) -> list[tuple[int, int]]:
    """Divide a range evenly into as few as there may be."""
    count = math.ceil((last - first) / _SLAB.get(device.type, _SLAB["cuda"]))
    size = math.ceil((last - first) / count)
    return [(begin, min(begin + size, last)) for begin in range(first, last, size)]


def _coverage(inside: Tensor, layout: PatchLayout) -> Tensor:
    """Return how much a voxel of the row counts in the mean over the image of sums over patches."""
    return F.pad(layout.window_sum(inside / inside.sum()), (layout.reach, layout.reach))


def _mean_distance(images: Tensor, coverage: Tensor, layout: PatchLayout, buffers: Buffers) -> Tensor:
    """Return the mean of each image's variances (rows, voxels) without taking a sum over patches: (rows, 1)."""
    total = images.new_zeros(len(images))
    for first, last in _slabs(*layout.read(layout.first, layout.last), images.device):
        shape = len(layout.shifts), last - first
        squares = layout.differences(images, first, last, buffers.get("odd", len(images), *shape)).square_()
        counts = buffers.get("even", *shape)
        for count, (_, a), (_, b) in zip(counts, layout.edges[::2], layout.edges[1::2], strict=True):
            torch.add(coverage[first - a : last - a], coverage[first - b : last - b], out=count)
        total += torch.stack([values.flatten().dot(counts.flatten()) for values in squares])
    return total.unsqueeze(1) / len(layout.edges)


def _limits(mean: Tensor, intensity: Tensor, layout: PatchLayout) -> tuple[Tensor, Tensor]:
    """Return the limits on the variances of an image of that mean variance.

    One of its intensities, whichever, is enough to tell by if the image is constant but for rounding.
    """
    rounding = ROUNDING_ERRORS * torch.finfo(mean.dtype).eps * intensity
    # The variance of a constant image is taken to be infinite, which makes all features 1 and all gradients 0.
    constant = mean <= layout.patch * rounding.square()
    return (_MIN_VARIANCE * mean).masked_fill(constant, math.inf), (_MAX_VARIANCE * mean).masked_fill(
        constant, math.inf
    )


class _Slab:
    """Two images over a range of voxels.

    Attributes:
        differences: (2, maps, voxels), over the range that the distances depend on.
        exponents, features: (2, edges, voxels).
        scale: the reciprocal of the variance, (2, voxels).
        limited: whether the variance is at a limit, (2, voxels).
        slope: of the norm of the features' difference, (edges, voxels).
    """

    def __init__(
        self,
        images: Tensor,
        first: int,
        last: int,
        limits: tuple[Tensor, Tensor],
        layout: PatchLayout,
        buffers: Buffers,
    ) -> None:
        self.layout, self.buffers = layout, buffers
        self.begin, self.end = layout.read(first, last)
        shape = len(images), len(layout.shifts), self.end - self.begin
        self.differences = layout.differences(images, self.begin, self.end, buffers.get("differences", *shape))
        maps = layout.window_sum(torch.square(self.differences, out=buffers.get("odd", *shape)), buffers)
        shape = len(images), len(layout.edges), last - first
        self.exponents = layout.distances(maps, buffers.get("exponents", *shape))
        variance = self.exponents.mean(1)
        clamped = variance.clamp(*limits)
        self.limited = clamped != variance
        self.scale = clamped.reciprocal_()
        self.exponents.sub_(self.exponents.amin(1, keepdim=True)).mul_(-self.scale.unsqueeze(1))
        self.features = torch.exp(self.exponents, out=buffers.get("features", *shape))
        self.slope = buffers.get("slope", *shape[1:])
        self.scratch = buffers.get("scratch", *shape[1:])

    def compare(self, norm: str, weight: Tensor) -> Tensor:
        """Return the weighted sum of the differences of features; to be called once."""
        torch.sub(*self.features, out=self.slope)
        if norm == "l1":
            difference = torch.abs(self.slope, out=self.scratch).sum(0)
            self.slope.sign_()
        else:
            difference = torch.square(self.slope, out=self.scratch).sum(0)
            self.slope.mul_(2)
        return difference.mul_(weight).sum()

    def differentiate(self, index: int, weight: Tensor, gradient: Tensor) -> None:
        """Add to the gradient with respect to one image's row; to be called once for each, after the comparison."""
        layout, (count, size) = self.layout, self.slope.shape
        features = self.features[index].mul_(self.slope)
        exponents = self.exponents[index]
        through_variance = torch.mul(features, exponents, out=self.scratch).sum(0)
        through_variance.masked_fill_(self.limited[index], 0).div_(count)
        # -1, but 0 at the nearest patches: a comparison and a selection by its result would take many times longer.
        others = exponents.sign_()
        nearest = features.sum(0).div_(others.sum(0).add_(count))
        slopes = torch.addcmul(nearest - through_variance, others, nearest, out=others).sub_(features)

        # The second image is the one subtracted; the two is of the derivative of the squared differences.
        factor = (self.scale[index] * weight).mul_(2 if index == 0 else -2)
        maps = self.buffers.get("odd", len(layout.shifts), self.end - self.begin + 2 * layout.reach).zero_()
        for (of, anchor), values in zip(layout.edges, slopes, strict=True):
            maps[of].narrow(0, anchor - layout.lowest + 2 * layout.reach, size).addcmul_(values, factor)
        maps = layout.window_sum(maps, self.buffers).mul_(self.differences[index])
        gradient[self.begin : self.end].add_(maps.sum(0))
        for values, shift in zip(maps, layout.shifts, strict=True):
            gradient[self.begin + shift : self.end + shift].sub_(values)
