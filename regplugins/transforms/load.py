# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that read the files of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Transform

from regplugins.checks import choice
from regplugins.io import landmarks_outside, read_landmarks, read_transform
from regplugins.io.images import load_image, load_label, load_mask
from regplugins.io.photographs import read_channels
from regplugins.spatial import Grid
from regplugins.transforms.timing import stage
from regplugins.transforms.warn import warn

# The largest size that a NIfTI-1 header holds.
_MAX_NIFTI_SIZE = 2**15 - 1
_SCANS = ("fixed", "moving", "image")
_LOADERS = {**dict.fromkeys(_SCANS, load_image), **dict.fromkeys(("fixed_mask", "moving_mask"), load_mask)}
# Keys of label maps and masks, and of their images.
_IMAGES = {
    "label": "image",
    **{f"{side}_{kind}": side for side in ("fixed", "moving") for kind in ("label", "mask")},
}


class LoadVolumesd(Transform):
    """Read the images and labels that a record names.

    Keys ``image``, ``fixed`` and ``moving`` are scans, ``fixed_mask`` and ``moving_mask`` masks, all others label maps.

    Args:
        keys: of the record; those that are missing or None are left out.
        spatial_dims: number of dimensions that the scans must have; None: 2 or 3.

    Raises:
        FileNotFoundError: on call, if a file is missing.
        ValueError: on call, if a file cannot be read, a scan has another number of dimensions, or a label map or mask
            is not on the grid of its image.
    """

    def __init__(self, keys: Sequence[str] = ("image", "label"), spatial_dims: int | None = None) -> None:
        self.keys = tuple(keys)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        data = {key: value for key, value in data.items() if value is not None or key not in self.keys}
        loaded = {key: _LOADERS.get(key, load_label)(data[key]) for key in self.keys if key in data}
        for key in _SCANS:
            if key in loaded and self.spatial_dims not in (None, loaded[key].ndim - 1):
                raise ValueError(f"{data[key]}: {loaded[key].ndim - 1}-D, expected a {self.spatial_dims}-D image")
        for key, image in _IMAGES.items():
            if key in loaded and image in loaded:
                _check_grid(data, loaded, key, image)
        return {**data, **loaded}


class LoadPaird(LoadVolumesd):
    """Read the images, labels, masks, landmarks and true transform of a pair; their paths stay under ``paths``.

    Args:
        landmark_space: "RAS" or "LPS", the world of the landmark files.
        spatial_dims: number of dimensions that the images must have; None: 2 or 3.

    Raises:
        FileNotFoundError: on call, if a file is missing.
        ValueError: if ``landmark_space`` is neither. On call, if a file cannot be read, the fixed image is too wide for
            NIfTI, shapes, dimensions or numbers of points do not match, or all landmarks lie outside their image.
            Lesser doubts go to ``warnings``.
    """

    def __init__(self, landmark_space: str = "RAS", spatial_dims: int | None = None) -> None:
        keys = ("fixed", "moving", "fixed_label", "moving_label", "fixed_mask", "moving_mask")
        super().__init__(keys, spatial_dims)
        self.landmark_space = choice("landmark_space", landmark_space, {"RAS": "RAS", "LPS": "LPS"})

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        paths = {key: path for key, path in data.items() if key != "name"}
        pair: dict[str, Any] = {**data, "paths": paths, "landmark_space": self.landmark_space, "seconds": {}}
        with stage(pair, "load"):
            pair = super().__call__(pair)
            warnings = [message for key in self.keys if key in pair for message in pair[key].meta["warnings"]]
            if warnings:  # the loader has logged them
                pair["warnings"] = [*pair.get("warnings", []), *warnings]
            for key in ("fixed_landmarks", "moving_landmarks"):
                if key in pair:
                    pair[key] = read_landmarks(pair[key], space=self.landmark_space)
            if (channels := read_channels(paths["moving"])) is not None:
                pair["moving_channels"] = channels
            if "truth" in pair:
                pair["truth"] = read_transform(pair["truth"])
        if max(pair["fixed"].shape) > _MAX_NIFTI_SIZE:
            raise ValueError(
                f"{paths['fixed']}: {' x '.join(map(str, pair['fixed'].shape[1:]))} voxels; the results are NIfTI, "
                f"which holds {_MAX_NIFTI_SIZE} along an axis; downsample it"
            )
        if pair["fixed"].ndim != pair["moving"].ndim:
            dimensions = [f"{paths[k]} is {pair[k].ndim - 1}-D" for k in ("fixed", "moving")]
            raise ValueError(f"images of one dimension expected: {dimensions[0]}, {dimensions[1]}")
        _check_landmarks(paths, pair)
        if "truth" in pair and pair["truth"].ndim != pair["fixed"].ndim - 1:
            raise ValueError(f"{paths['truth']}: {pair['truth'].ndim}-D, the images are {pair['fixed'].ndim - 1}-D")
        return pair


def _check_grid(paths: Mapping[str, str], loaded: Mapping[str, Any], label_key: str, image_key: str) -> None:
    """Refuse a label map or mask that is not on the grid of its image."""
    image, label = Grid.from_image(loaded[image_key]), Grid.from_image(loaded[label_key])
    path, of_image = paths[label_key], f"its image {paths[image_key]}"
    if image.shape != label.shape:
        raise ValueError(f"{path}: shape {label.shape} does not match {image.shape} of {of_image}")
    # Tools round affines differently; half a voxel is a different position.
    if not image.matches(label, tolerance=0.1):
        raise ValueError(f"{path}: lies elsewhere in the world than {of_image}")


def _check_landmarks(paths: Mapping[str, str], pair: dict[str, Any]) -> None:
    """Refuse landmarks that do not fit or all lie outside their image; warn of some that do by more than a voxel."""
    fixed, moving = pair.get("fixed_landmarks"), pair.get("moving_landmarks")
    for key, points in (("fixed_landmarks", fixed), ("moving_landmarks", moving)):
        if points is not None and points.shape[1] != pair["fixed"].ndim - 1:
            raise ValueError(f"{paths[key]}: {points.shape[1]}-D points with {pair['fixed'].ndim - 1}-D images")
    if fixed is None and moving is not None:
        warn(pair, f"{paths['moving_landmarks']}: not used without landmarks of the fixed image")
    if isinstance(fixed, torch.Tensor) and isinstance(moving, torch.Tensor) and len(fixed) != len(moving):
        raise ValueError(
            f"{paths['fixed_landmarks']} and {paths['moving_landmarks']}: {len(fixed)} and {len(moving)} points, "
            "expected equal numbers"
        )
    for side, points in (("fixed", fixed), ("moving", moving)):
        if points is None:
            continue
        names = paths[f"{side}_landmarks"], paths[side]
        inside, message = landmarks_outside(points, Grid.from_image(pair[side]), names, pair["landmark_space"])
        if message and inside == 0:
            raise ValueError(message)
        if message:
            warn(pair, message)
