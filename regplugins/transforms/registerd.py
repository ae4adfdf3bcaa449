# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that register images and apply the result, for any MONAI pipeline."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import MetaKeys, TraceKeys, ensure_tuple_rep
from torch import Tensor

from regplugins.checks import choice, number
from regplugins.registration import AffineRegistration, DeformableRegistration, PresetRegistration, optimize_pair
from regplugins.spatial import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Grid,
    SpatialTransform,
    outside_value,
    resample,
)
from regplugins.transforms.resample import ResamplePaird

# Metadata of the grid of an image's file, to which ``monai.transforms.SaveImage`` resamples on demand.
_FILE_GRID = (MetaKeys.ORIGINAL_AFFINE, MetaKeys.SPATIAL_SHAPE)


class _Warping(MapTransform, InvertibleTransform):
    """Base class: resample images through a transform, once, and invert that."""

    def _warp(
        self,
        data: dict[Hashable, Any],
        key: Hashable,
        image: MetaTensor,
        fixed: MetaTensor,
        transform: SpatialTransform,
        mode: str = "linear",
        fill: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        source, target = Grid.from_image(image), Grid.from_image(fixed)
        fill = outside_value(image.as_tensor(), fill, mode == "nearest")
        values = resample(image.as_tensor(), source, target, transform, mode, fill)
        place = {key: image.meta[key] for key in _FILE_GRID if key in image.meta}
        meta = {key: value for key, value in image.meta.items() if key not in place}
        meta |= {key: fixed.meta[key] for key in _FILE_GRID if key in fixed.meta}
        warped = MetaTensor(values, meta=meta, applied_operations=image.applied_operations)
        warped.affine = to_affine_nd(len(image.affine) - 1, target.affine)
        # Numbers and arrays only, which a DataLoader can collate.
        info = {"mode": mode, "affine": image.affine, "place": place, **_packed(transform), **(settings or {})}
        data[key] = self.push_transform(warped, orig_size=source.shape, extra_info=info)

    def _invert_warp(self, data: dict[Hashable, Any], key: Hashable) -> None:
        image = data[key]
        trace = self.pop_transform(image)
        info = trace[TraceKeys.EXTRA_INFO]
        original = MetaTensor(torch.empty(1, *trace[TraceKeys.ORIG_SIZE], device="meta"), affine=info["affine"])
        source, inverse = Grid.from_image(image), _unpacked(info).inverse()
        fill = outside_value(image.as_tensor(), None, info["mode"] == "nearest")
        values = resample(image.as_tensor(), source, Grid.from_image(original), inverse, info["mode"], fill)
        meta = {key: value for key, value in image.meta.items() if key not in _FILE_GRID} | info["place"]
        data[key] = MetaTensor(values, meta=meta, applied_operations=image.applied_operations)
        data[key].affine = info["affine"]


class Registerd(_Warping):
    """Register one image of a dictionary to another by optimization, by default as ``regplugins.register`` does.

    Adds ``transform``, a ``regplugins.spatial.SpatialTransform`` from the fixed to the moving world (RAS+ mm), for
    ``ApplyRegistrationd`` and ``regplugins.io.write_chain``. Optionally adds the moving image on the fixed image's
    grid, which ``inverse`` or ``monai.transforms.Invertd`` resamples back. The grid of the registration has the
    spacing of the optimizers.

    Args:
        fixed: key of the fixed image, ``(1, *spatial)``, 2-D or 3-D, with its affine.
        moving: key of the moving image, which stays unchanged; any size, spacing and orientation.
        deformable: optimizes the displacement field, or the name of a preset, see
            ``regplugins.registration.PresetRegistration``; None: skipped.
        affine: optimizes a rigid or affine transform before that; None: skipped.
        init: initial transform: "auto", "none", "fov", "center", "rigid", "affine" or a transform file, see
            ``regplugins.registration.initial_transform``.
        warped: key of the warped image (linear interpolation, ``outside_value`` outside); None: not added.
        masks: keys of the fixed and of the moving mask, on the grids of their images; None: no mask. The images are
            compared where both are not zero; similarities with patches or windows include a few voxels beyond.
        device: of the optimization; default: that of the fixed image.

    Raises:
        TypeError: if an optimizer has the wrong type.
        ValueError: if the preset is unknown, or the spacings of the optimizers differ.
    """

    def __init__(
        self,
        fixed: Hashable,
        moving: Hashable,
        deformable: DeformableRegistration | PresetRegistration | str | None = "auto",
        affine: AffineRegistration | None = None,
        init: str = "auto",
        warped: Hashable | None = None,
        masks: tuple[Hashable | None, Hashable | None] = (None, None),
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__((fixed, moving))
        deformable = PresetRegistration(deformable) if isinstance(deformable, str) else deformable
        self.deformable = _instance("deformable", deformable, (DeformableRegistration, PresetRegistration))
        self.affine = _instance("affine", affine, (AffineRegistration,))
        self.spacing = _common_spacing(deformable, affine)
        self.init = init
        self.warped = warped
        self.inputs = dict(zip(("fixed", "moving", "fixed_mask", "moving_mask"), (fixed, moving, *masks), strict=True))
        self.device = device

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            KeyError: if an image is missing.
            ValueError: if an image or mask is not ``(1, *spatial)`` with an affine or not finite, a mask is empty or on
                another grid than its image, or the images do not overlap.
        """
        result = dict(data)
        pair: dict[str, Any] = {name: _single(result, key) for name, key in self.inputs.items() if key is not None}
        paths = {name: f"'{self.inputs[name]}'" for name in pair}
        _check_masks(pair, paths)
        resampled = ResamplePaird(self.spacing, self.init)({**pair, "paths": paths, "seconds": {}})
        transform, chosen = optimize_pair(resampled, self.affine, self.deformable, self.device)
        result["transform"] = transform
        if self.warped is not None:
            settings = {"init": resampled.get("chosen", {}).get("init", self.init), "spacing": self.spacing}
            settings |= {name: str(chosen[name]) for name in ("preset", "initializer") if chosen}
            settings |= {"affine_registration": str(self.affine), "deformable_registration": str(self.deformable)}
            settings |= {name: str(key) for name, key in self.inputs.items()}
            self._warp(result, self.warped, pair["moving"], pair["fixed"], transform, settings=settings)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the warped image, or results computed from it, back to the moving image's grid."""
        result = dict(data)
        if self.warped in result:  # ``Invertd`` passes only the images that it inverts
            self._invert_warp(result, self.warped)
        return result


class ApplyRegistrationd(_Warping):
    """Apply the transform of ``Registerd`` to further images, labels and points in the moving image's world.

    Images are resampled once to the fixed image's grid; ``inverse`` or ``monai.transforms.Invertd`` resamples them
    back. Points have no metadata, so that only ``inverse`` maps them back.

    Args:
        keys: of images and labels ``(C, *spatial)`` with their affine, or of points ``(N, n)``, RAS+ mm.
        fixed: key of the image with the target grid.
        mode: "linear", "nearest" (for labels) or "points", one for all keys or one per key.
        transform: key of the transform.
        fill: value outside the images; default: see ``regplugins.spatial.outside_value``, 0 of "nearest".
        allow_missing_keys: skip missing keys.

    Raises:
        ValueError: if a mode is unknown.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        fixed: Hashable,
        mode: str | Sequence[str] = "linear",
        transform: Hashable = "transform",
        fill: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        modes = ("linear", "nearest", "points")
        self.modes = [choice("mode", one, dict.fromkeys(modes, one)) for one in ensure_tuple_rep(mode, len(self.keys))]
        self.fixed = fixed
        self.transform = transform
        self.fill = None if fill is None else number("fill", fill)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            KeyError: if a key or the transform is missing.
            ValueError: if an image has no affine.
        """
        result = dict(data)
        if self.transform not in result:
            raise KeyError(f"no transform '{self.transform}' among {sorted(map(str, result))}: add it with Registerd")
        transform: SpatialTransform = result[self.transform]
        inverse: SpatialTransform | None = None
        for key, mode in self.key_iterator(result, self.modes):
            if mode == "points":
                # The transform maps fixed to moving points.
                inverse = inverse or transform.inverse()
                result[key] = inverse(torch.as_tensor(result[key]))
            else:
                self._warp(result, key, _image(result, key), result[self.fixed], transform, mode, self.fill)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample images, or results computed from them, back to their grids, and map points back."""
        result = dict(data)
        for key, mode in self.key_iterator(result, self.modes):
            if mode == "points":
                result[key] = result[self.transform](torch.as_tensor(result[key]))
            else:
                self._invert_warp(result, key)
        return result


def _instance(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    if value is not None and not isinstance(value, kinds):
        raise TypeError(f"{name} must be a {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}")
    return value


def _common_spacing(*optimizers: Any) -> Any:
    """Common spacing of the optimizers; None, automatic, if none has one."""
    spacings = [optimizer.spacing for optimizer in optimizers if optimizer is not None]
    spacings = [list(size) if isinstance(size, tuple) else size for size in spacings if size is not None]
    if any(spacing != spacings[0] for spacing in spacings):
        raise ValueError(f"the optimizers of Registerd must have the same spacing, got {spacings}")
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
    """Arrays of the parts of a transform."""
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
