# SPDX-License-Identifier: Apache-2.0
"""Registration as a step of any MONAI pipeline."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, ensure_tuple_rep
from torch import Tensor

from regplugins.checks import choice, number
from regplugins.registration import AffineRegistration, DeformableRegistration, optimize_pair
from regplugins.spatial import AffineTransform, CompositeTransform, DisplacementField, Grid, SpatialTransform, resample
from regplugins.transforms.resample import ResamplePaird


class _Warping(MapTransform, InvertibleTransform):
    """Takes images through a transform, once, and back again."""

    def _warp(
        self,
        data: dict[Hashable, Any],
        key: Hashable,
        image: MetaTensor,
        target: Grid,
        transform: SpatialTransform,
        mode: str,
        fill: float,
        done: Mapping[str, Any] | None = None,
    ) -> None:
        source = Grid.from_image(image)
        values = resample(image.as_tensor(), source, target, transform, mode, fill)
        warped = MetaTensor(values, meta=image.meta, applied_operations=image.applied_operations)
        warped.affine = to_affine_nd(len(image.affine) - 1, target.affine)
        # Numbers and arrays alone, so that it survives a DataLoader.
        way = {"mode": mode, "affine": image.affine, **_packed(transform), **(done or {})}
        data[key] = self.push_transform(warped, orig_size=source.shape, extra_info=way)

    def _unwarp(self, data: dict[Hashable, Any], key: Hashable) -> None:
        image = data[key]
        done = self.pop_transform(image)
        way = done[TraceKeys.EXTRA_INFO]
        home = MetaTensor(torch.empty(1, *done[TraceKeys.ORIG_SIZE], device="meta"), affine=way["affine"])
        source, back = Grid.from_image(image), _unpacked(way).inverse()
        values = resample(image.as_tensor(), source, Grid.from_image(home), back, way["mode"])
        data[key] = MetaTensor(values, meta=image.meta, applied_operations=image.applied_operations)
        data[key].affine = way["affine"]


class Registerd(_Warping):
    """Register one image of a dictionary to another by optimization.

    Adds the transform, a ``regplugins.spatial.SpatialTransform`` from the fixed to the moving image's world (RAS+ mm),
    which ``ApplyRegistrationd`` takes to further images, labels and points, and ``regplugins.io.write_chain``
    into files; and, if asked to, the moving image on the fixed one's grid. That one's metadata say what was done, so
    that it can be undone, by ``inverse`` or ``monai.transforms.Invertd``.

    Args:
        fixed: key of the image that stays, ``(1, *spatial)``, 2-D or 3-D, with its affine.
        moving: key of the image that is registered to it, which itself is not changed; any size, spacing, orientation.
        deformable: finds the deformation; None: there is none.
        affine: finds a rigid or affine transform before that; None: there is none but ``init``.
        spacing: of the grid on which they look at the images, mm; default: the optimizers' own, or automatic if that is
            None.
        init: the start: "none" (the images lie in one world), "fov", "center", "rigid", "affine" or a transform file,
            see ``regplugins.registration``.
        transform: key for the transform.
        warped: key for the warped image; None: it is not wanted.
        fixed_mask: key of a mask on the fixed image's grid; only where it is not zero are the images compared. A
            similarity of patches or windows sees a few voxels beyond.
        moving_mask: key of one on the moving image's grid.
        interpolation: of the warped image, "linear" or "nearest".
        fill: its value outside the moving image.
        device: where to optimize; default: where the fixed image is.
        seed: of an ``init`` by mutual information.

    Raises:
        TypeError: an optimizer is none.
        ValueError: unknown interpolation, or spacings that differ.
    """

    def __init__(
        self,
        fixed: Hashable,
        moving: Hashable,
        deformable: DeformableRegistration | None = None,
        affine: AffineRegistration | None = None,
        spacing: float | Sequence[float] | None = None,
        init: str = "none",
        transform: Hashable = "transform",
        warped: Hashable | None = None,
        fixed_mask: Hashable | None = None,
        moving_mask: Hashable | None = None,
        interpolation: str = "linear",
        fill: float = 0.0,
        device: str | torch.device | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__((fixed, moving))
        self.fixed = fixed
        self.moving = moving
        self.deformable = _instance("deformable", deformable, DeformableRegistration)
        self.affine = _instance("affine", affine, AffineRegistration)
        self.spacing = _one_spacing(spacing, deformable, affine)
        self.init = init
        self.transform = transform
        self.warped = warped
        self.masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
        self.interpolation = choice("interpolation", interpolation, {"linear": "linear", "nearest": "nearest"})
        self.fill = number("fill", fill)
        self.device = device
        self.seed = seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            KeyError: an image is not there.
            ValueError: an image or mask is not ``(1, *spatial)`` with an affine, or has values that are not finite; a
                mask is not on the grid of its image, or empty; the images do not overlap.
        """
        result = dict(data)
        keys = {"fixed": self.fixed, "moving": self.moving, **self.masks}
        pair: dict[str, Any] = {name: _single(result, key) for name, key in keys.items() if key is not None}
        paths = {name: f"'{keys[name]}'" for name in pair}
        _check_masks(pair, paths)
        resampled = ResamplePaird(self.spacing, self.init, self.seed)({**pair, "paths": paths, "seconds": {}})
        transform = optimize_pair(resampled, self.affine, self.deformable, self.device)
        result[self.transform] = transform
        if self.warped is not None:
            target = Grid.from_image(pair["fixed"])
            done = {"init": self.init, "spacing": self.spacing, "seed": self.seed}
            done |= {"affine_registration": str(self.affine), "deformable_registration": str(self.deformable)}
            done |= {name: str(key) for name, key in self.masks.items()}
            self._warp(result, self.warped, pair["moving"], target, transform, self.interpolation, self.fill, done)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring the warped image, or what has been made of it since, back onto the moving image's grid."""
        result = dict(data)
        if self.warped in result:  # not always: ``Invertd`` brings the images alone that it inverts
            self._unwarp(result, self.warped)
        return result


class ApplyRegistrationd(_Warping):
    """Take further images, labels and points of the moving image's world to the fixed image, as ``Registerd`` found.

    Images come onto the fixed image's grid, resampled once; their metadata say so, and ``inverse`` or
    ``monai.transforms.Invertd`` takes them back. Points, which have no metadata, come back by ``inverse`` alone.

    Args:
        keys: of images and labels ``(C, *spatial)`` with their affine, on any grid of the moving image's world, or of
            points ``(N, n)``, RAS+ mm.
        fixed: key of the image whose grid they come onto.
        mode: "linear", "nearest" (for labels) or "points", one for all keys or one a key.
        transform: key of the transform.
        fill: value of images outside the moving one.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        ValueError: unknown mode.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        fixed: Hashable,
        mode: str | Sequence[str] = "linear",
        transform: Hashable = "transform",
        fill: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        modes = ("linear", "nearest", "points")
        self.modes = [choice("mode", one, dict.fromkeys(modes, one)) for one in ensure_tuple_rep(mode, len(self.keys))]
        self.fixed = fixed
        self.transform = transform
        self.fill = number("fill", fill)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            KeyError: an image, points or the transform are not there.
            ValueError: an image has no affine.
        """
        result = dict(data)
        if self.transform not in result:
            raise KeyError(f"no transform '{self.transform}' among {sorted(map(str, result))}: Registerd finds it")
        transform: SpatialTransform = result[self.transform]
        target = Grid.from_image(result[self.fixed])
        backwards: SpatialTransform | None = None
        for key, mode in self.key_iterator(result, self.modes):
            if mode == "points":
                # Points go the other way than the images that are looked up through the transform.
                backwards = backwards or transform.inverse()
                result[key] = backwards(torch.as_tensor(result[key]))
            else:
                self._warp(result, key, _image(result, key), target, transform, mode, self.fill)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring images, or what has been made of them since, back onto their grids, and points to where they were."""
        result = dict(data)
        for key, mode in self.key_iterator(result, self.modes):
            if mode == "points":
                result[key] = result[self.transform](torch.as_tensor(result[key]))
            else:
                self._unwarp(result, key)
        return result


def _instance(name: str, value: Any, kind: type) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {value!r}")
    return value


def _one_spacing(given: Any, *optimizers: Any) -> Any:
    """That of all; None, automatic, if there is none."""
    spacings = [given, *(optimizer.spacing for optimizer in optimizers if optimizer is not None)]
    spacings = [list(size) if isinstance(size, tuple) else size for size in spacings if size is not None]
    if any(spacing != spacings[0] for spacing in spacings):
        raise ValueError(f"the spacing of Registerd and those of its optimizers must be one, got {spacings}")
    return spacings[0] if spacings else None


def _image(data: Mapping[Hashable, Any], key: Hashable) -> MetaTensor:
    image = data[key]
    if not isinstance(image, MetaTensor) or image.ndim not in (3, 4):
        what = f"a {type(image).__name__} of shape {tuple(getattr(image, 'shape', ()))}"
        raise ValueError(f"'{key}': expected a MetaTensor (C, *spatial), 2-D or 3-D, got {what}")
    return image


def _single(data: Mapping[Hashable, Any], key: Hashable) -> MetaTensor:
    if key not in data:
        raise KeyError(f"no image '{key}' among {sorted(map(str, data))}")
    image = _image(data, key)
    if len(image) != 1:
        raise ValueError(f"'{key}': expected one channel, (1, *spatial), got {len(image)}")
    if not torch.isfinite(image).all():
        raise ValueError(f"'{key}' has values that are not finite")
    return image


def _check_masks(pair: Mapping[str, MetaTensor], paths: Mapping[str, str]) -> None:
    for side in ("fixed", "moving"):
        mask = pair.get(f"{side}_mask")
        if mask is not None and not Grid.from_image(mask).matches(Grid.from_image(pair[side])):
            raise ValueError(f"{paths[f'{side}_mask']} is not on the grid of {paths[side]}")


def _packed(transform: SpatialTransform) -> dict[str, Tensor]:
    """A transform as arrays, part by part."""
    packed: dict[str, Tensor] = {}
    for k, part in enumerate(CompositeTransform([transform]).transforms):
        if isinstance(part, AffineTransform):
            packed[f"matrix_{k}"] = part.matrix
        elif isinstance(part, DisplacementField):
            packed |= {f"vectors_{k}": part.vectors, f"vectors_affine_{k}": part.grid.affine}
        else:
            raise ValueError(f"expected affine transforms and displacement fields, got a {type(part).__name__}")
    return packed


def _unpacked(packed: Mapping[str, Tensor]) -> SpatialTransform:
    parts: list[SpatialTransform] = []
    while f"matrix_{len(parts)}" in packed or f"vectors_{len(parts)}" in packed:
        k = len(parts)
        if f"matrix_{k}" in packed:
            parts.append(AffineTransform(packed[f"matrix_{k}"]))
            continue
        vectors = packed[f"vectors_{k}"]
        parts.append(DisplacementField(vectors, Grid(tuple(vectors.shape[1:]), packed[f"vectors_affine_{k}"])))
    return CompositeTransform(parts)
