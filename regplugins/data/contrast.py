# SPDX-License-Identifier: Apache-2.0
"""Random contrasts of one anatomy, from label maps and from images.

Label maps are rendered as in Hoffmann et al., SynthMorph, IEEE Transactions on Medical Imaging 41 (2022) 543-558.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.layers import GaussianFilter
from monai.transforms import Randomizable, Transform
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from regplugins.checks import choice
from regplugins.registration.intensity import scale_percentiles

# Tissues of a label map. A number is ``STRUCTURE * structure + tissue``, so that each structure has a tissue.
AIR, BONE, MARROW, SCALP, FLUID, GRAY, WHITE, SOFT, TABLE = range(9)
UNKNOWN = 15
STRUCTURE = 16
# Structures that a map may have.
_STRUCTURES = 256

# Range of the mean of each tissue in a CT, from air (0) to the densest bone (1). Marrow is bone and fat.
CT_MEANS = {
    AIR: (0.0, 0.0),
    BONE: (0.75, 1.0),
    MARROW: (0.5, 0.85),
    TABLE: (0.05, 0.4),
    SCALP: (0.38, 0.46),
    FLUID: (0.47, 0.49),
    GRAY: (0.51, 0.53),
    WHITE: (0.5, 0.52),
    SOFT: (0.38, 0.54),
}
_MR_MEANS = {AIR: (0.0, 0.0), BONE: (0.0, 0.12), TABLE: (0.0, 0.0), MARROW: (0.5, 0.9), SOFT: (0.3, 0.7)}
_MEANS = {
    "random": {AIR: (0.0, 0.0)},
    "ct": CT_MEANS,
    "t1": _MR_MEANS | {SCALP: (0.7, 1.0), FLUID: (0.05, 0.3), GRAY: (0.45, 0.65), WHITE: (0.7, 1.0)},
    "t2": _MR_MEANS | {SCALP: (0.5, 0.9), FLUID: (0.85, 1.0), GRAY: (0.5, 0.7), WHITE: (0.3, 0.45)},
    "flair": _MR_MEANS | {SCALP: (0.5, 0.9), FLUID: (0.0, 0.25), GRAY: (0.65, 1.0), WHITE: (0.45, 0.7)},
}
# Values that are within every window of a CT, and smallest and largest distance of its ends from them. Distances are
# drawn on a logarithmic scale, since the tissues of a brain differ little.
_WINDOWED = (0.47, 0.53)
_WINDOW_ROOM = (0.005, 0.47)
# Full width at half maximum of a Gaussian, in standard deviations.
_FULL_WIDTH = 2.355
# Standard deviations at which a Gaussian ends, and width in voxels below which it changes nothing.
_TRUNCATED = 4.0
_NARROW = 1e-3
# Entries of the table of a remapping.
_ENTRIES = 256


class RandLabelContrast(Randomizable, Transform):
    """Render a label map as an image with a random mean and a random texture of each label.

    ``randomize`` draws the contrast. A call draws the texture alone, so that several maps can share a contrast. In a
    "random" contrast the labels deviate from a random mean of their tissue by a random share; those of an unknown
    tissue are independent. In the other modalities the means are in the ranges of their tissues.

    Args:
        modalities: of which one is drawn: "random", "ct", "t1", "t2" or "flair".
        texture: largest standard deviation within a label, where 1 is the largest mean.
        blur: smallest and largest standard deviation of the partial volume effect, voxels.

    Raises:
        ValueError: if a modality is unknown, ``texture`` is negative, or ``blur`` is not two ascending numbers of at
            least 0.
    """

    def __init__(
        self,
        modalities: Sequence[str] = ("random",),
        texture: float = 0.08,
        blur: Sequence[float] = (0.3, 0.9),
    ) -> None:
        if texture < 0 or not 0 <= blur[0] <= blur[1]:
            raise ValueError(
                f"texture must be at least 0 and blur two ascending numbers of at least 0, got {texture} and {blur}"
            )
        self.modalities = [(name, choice("modality", name, _MEANS)) for name in modalities]
        self.texture = texture
        self.blur = (blur[0], blur[1])
        self.randomize()

    def randomize(self, data: Any = None) -> None:
        """Draw the means and textures of all labels, the blur and, for a CT, the window."""
        name, means = self.modalities[self.R.randint(len(self.modalities))]
        low, high = (np.array([means.get(tissue, (0.0, 1.0))[k] for tissue in range(STRUCTURE)]) for k in (0, 1))
        whole, own = self.R.uniform(size=STRUCTURE), self.R.uniform(size=(_STRUCTURES, STRUCTURE))
        share = np.full(STRUCTURE, self.R.uniform())
        share[UNKNOWN] = 1.0
        self.means = low + (high - low) * ((1 - share) * whole + share * own)
        if name == "ct":
            below, above = np.exp(self.R.uniform(*np.log(_WINDOW_ROOM), size=2))
            bottom, top = _WINDOWED[0] - below, _WINDOWED[1] + above
            self.means = ((self.means - bottom) / (top - bottom)).clip(0, 1)
        self.textures = self.R.uniform(0, self.texture) * self.R.uniform(size=self.means.shape)
        self.textures[:, AIR] = 0
        self.width = self.R.uniform(*self.blur)

    def __call__(self, labels: Tensor) -> Tensor:
        """
        Args:
            labels: ``(1, *spatial)`` integers below 4096, on any device.

        Returns:
            float32 of the same shape and device. Without texture and blur each voxel has the mean of its label.
        """
        tables = torch.from_numpy(np.stack([self.means, self.textures]).reshape(2, -1)).to(labels.device, torch.float32)
        index = labels.long()
        image = tables[0][index]
        if self.texture > 0:
            image = image + tables[1][index] * _normal(self.R, labels)
        return _blurred(image, [self.width] * (labels.ndim - 1))


class RandRemap(Randomizable, Transform):
    """Map the intensities of an image by a random smooth curve, which keeps zero.

    ``randomize`` draws the curve: monotonic, or of any shape. The result is a function of the intensity, so that edges
    stay where they are.

    Args:
        prob: probability of a change.
        knots: number of knots of the curve, at equal distances.
        monotonic: probability that a curve rises everywhere.

    Raises:
        ValueError: if a probability is not between 0 and 1, or there are fewer than three knots.
    """

    def __init__(self, prob: float = 0.5, knots: int = 6, monotonic: float = 0.5) -> None:
        if not (0 <= prob <= 1 and 0 <= monotonic <= 1) or knots < 3:
            raise ValueError(
                f"prob and monotonic must be between 0 and 1 and knots at least 3, got {prob}, {monotonic} and {knots}"
            )
        self.prob = prob
        self.knots = knots
        self.monotonic = monotonic
        self.randomize()

    def randomize(self, data: Any = None) -> None:
        """Draw whether there is a change, and the curve."""
        self.is_changed = self.R.uniform() < self.prob
        values = self.R.uniform(size=self.knots)
        if self.R.uniform() < self.monotonic:
            values = np.cumsum(values)
        values[0] = 0
        places = np.linspace(0, 1, self.knots)
        # Does not overshoot, and rises where its knots rise.
        self.curve = PchipInterpolator(places, values / values.max())(np.linspace(0, 1, _ENTRIES))

    def __call__(self, image: Tensor) -> Tensor:
        """
        Args:
            image: ``(1, *spatial)`` in [0, 1], on any device.

        Returns:
            float32 in [0, 1], of the same shape and device.
        """
        if not self.is_changed:
            return image
        curve = torch.from_numpy(self.curve).to(image.device, torch.float32)
        place = image.float().clamp(0, 1) * (_ENTRIES - 1)
        below = place.long().clamp(max=_ENTRIES - 2)
        return torch.lerp(curve[below], curve[below + 1], place - below)


class RandAxisResolution(Randomizable, Transform):
    """Blur an image by voxels of a random size along each axis, resample it to them, and interpolate it back.

    MONAI's ``RandSimulateLowResolution`` has one factor for all axes and does not blur.

    Args:
        prob: probability of a change.
        factor: largest size, in voxels of the image.

    Raises:
        ValueError: if ``prob`` is not between 0 and 1, or ``factor`` is less than 1.
    """

    def __init__(self, prob: float = 0.3, factor: float = 3.0) -> None:
        if not 0 <= prob <= 1 or factor < 1:
            raise ValueError(f"prob must be between 0 and 1 and factor at least 1, got {prob} and {factor}")
        self.prob = prob
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        """
        Args:
            image: ``(1, *spatial)``, 2-D or 3-D.

        Returns:
            float32 of the same shape.
        """
        if self.R.uniform() >= self.prob:
            return image
        shape = image.shape[1:]
        factors = self.R.uniform(1, self.factor, size=len(shape))
        blurred = _blurred(image.float(), (factors - 1) / _FULL_WIDTH)[None]
        mode = "trilinear" if len(shape) == 3 else "bilinear"
        sizes = [max(1, round(size / factor)) for size, factor in zip(shape, factors, strict=True)]
        coarse = F.interpolate(blurred, size=sizes, mode=mode)
        return F.interpolate(coarse, size=shape, mode=mode)[0]


class RandContrast(Randomizable, Transform):
    """Random contrast that images and label maps of several subjects share.

    ``randomize`` draws the contrast. Each call draws an acquisition of its own.

    Args:
        labels: renders label maps.
        remap: maps the intensities of images.
        acquisition: random transform of a single image, such as noise; default: none.
        sequences: that may be shown in this contrast, one or several; default: any.
    """

    def __init__(
        self,
        labels: RandLabelContrast,
        remap: RandRemap,
        acquisition: Randomizable | None = None,
        sequences: str | Sequence[str] | None = None,
    ) -> None:
        self.labels = labels
        self.remap = remap
        self.acquisition = acquisition
        self.sequences = [sequences] if isinstance(sequences, str) else sequences

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandContrast:
        super().set_random_state(seed, state)
        for part in (self.labels, self.remap, self.acquisition):
            if part is not None:
                part.set_random_state(state=self.R)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw the contrast of label maps and of images."""
        self.labels.randomize()
        self.remap.randomize()

    def __call__(self, source: Mapping[str, Tensor]) -> Tensor:
        """
        Args:
            source: either ``label_map``, see ``RandLabelContrast``, or ``image`` in [0, 1], ``(1, *spatial)``.

        Returns:
            float32 of the same shape, scaled to [0, 1] by ``scale_percentiles``.
        """
        image = self.labels(source["label_map"]) if "label_map" in source else self.remap(source["image"])
        acquire: Any = self.acquisition
        return scale_percentiles(image if acquire is None else acquire(image).as_subclass(Tensor))


def _blurred(image: Tensor, widths: Sequence[float]) -> Tensor:
    """Blur an image ``(1, *spatial)`` that continues from its border by a Gaussian of a width for each axis, voxels."""
    if max(widths) == 0:
        return image
    room = [int(_TRUNCATED * width + 1) for width in widths]
    padded = F.pad(image[None], [margin for margin in reversed(room) for _ in range(2)], mode="replicate")
    # MONAI cannot skip an axis.
    blur = GaussianFilter(len(room), [max(width, _NARROW) for width in widths], _TRUNCATED).to(image.device)
    inner = [slice(margin, -margin) for margin in room]
    blurred: Tensor = blur(padded)[(0, slice(None), *inner)]
    return blurred


def _normal(random: np.random.RandomState, like: Tensor) -> Tensor:
    """Gaussian noise of the shape and on the device of a tensor; PyTorch draws it faster than NumPy."""
    generator = torch.Generator(like.device).manual_seed(int(random.randint(2**31)))
    return torch.randn(like.shape, generator=generator, device=like.device)
