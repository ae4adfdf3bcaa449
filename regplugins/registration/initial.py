# SPDX-License-Identifier: Apache-2.0
"""Initial transform of a pair: identity, centers, mutual information or a file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from regplugins.io import read_transform
from regplugins.registration.mutual_information import maximize_mutual_information
from regplugins.registration.poses import align_centers_of_mass, align_fields_of_view
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, CompositeTransform, Grid

INIT_CHOICES = ("none", "fov", "center", "rigid", "affine")


def initial_transform(
    init: str,
    fixed: Tensor,
    fixed_grid: Grid,
    moving: Tensor,
    moving_grid: Grid,
    seed: int = 0,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
) -> AffineTransform:
    """Initial affine transform of a pair.

    Args:
        init: "none" (identity), "fov" (centers of the fields of view), "center" (centers of mass of the foreground),
            "rigid" or "affine" (mutual information, from the best of these three and of rotated starts), or a file that
            holds an affine transform.
        fixed: ``(1, *fixed_grid.shape)``.
        fixed_grid: grid of the fixed image.
        moving: ``(1, *moving_grid.shape)``.
        moving_grid: grid of the moving image.
        seed: of the samples of the mutual information.
        fixed_mask: ``(1, *fixed_grid.shape)``, zero where voxels are ignored; default: all voxels count.
        moving_mask: ``(1, *moving_grid.shape)``, likewise.

    Returns:
        From the fixed to the moving world, RAS+ mm.

    Raises:
        ValueError: if ``init`` is unknown, the file holds no affine transform of this dimension, an image is constant,
            not finite or does not match its grid or mask, or the images do not overlap from any start.
    """
    n = fixed_grid.ndim
    if moving_grid.ndim != n:
        raise ValueError(f"a {n}-D fixed image and a {moving_grid.ndim}-D moving one cannot be aligned")
    if init not in INIT_CHOICES:
        return _from_file(init, n)
    if init == "none":
        return AffineTransform.identity(n)
    if init == "fov":
        return align_fields_of_view(fixed_grid, moving_grid)
    fixed_volume = Volume.prepare("fixed", fixed, fixed_grid, fixed_mask)
    moving_volume = Volume.prepare("moving", moving, moving_grid, moving_mask)
    center = align_centers_of_mass(fixed_volume, moving_volume)
    if init == "center":
        return center
    starts = [center, align_fields_of_view(fixed_grid, moving_grid), AffineTransform.identity(n)]
    return maximize_mutual_information(init, fixed_volume, moving_volume, starts, seed)


def _from_file(init: str, ndim: int) -> AffineTransform:
    if init == "centre":
        raise ValueError("init=centre: use center")
    expected = f"init must be one of {', '.join(INIT_CHOICES)} or a transform file"
    if not isinstance(init, str | Path):
        raise ValueError(f"{expected}, got {init!r}")
    if not Path(init).is_file():
        raise ValueError(f"{expected}, got '{init}', which is no file")
    transform = read_transform(init)
    if isinstance(transform, CompositeTransform) and len(transform.transforms) == 1:
        (transform,) = transform.transforms
    if not isinstance(transform, AffineTransform):
        raise ValueError(f"{init}: holds a {type(transform).__name__}, an initial transform must be affine")
    if transform.ndim != ndim:
        raise ValueError(f"{init}: holds a {transform.ndim}-D transform, the images are {ndim}-D")
    return transform
