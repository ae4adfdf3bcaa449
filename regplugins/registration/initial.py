# SPDX-License-Identifier: Apache-2.0
"""How two images are brought together before anything else looks at them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from regplugins.io import read_transform
from regplugins.registration.centers import align_centers_of_mass, align_fields_of_view
from regplugins.registration.mutual_information import maximize_mutual_information
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, CompositeTransform, Grid

CHOICES = ("none", "fov", "center", "rigid", "affine")


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
    """Affine transform from the fixed image's world to that of the moving one.

    Args:
        init: "none" (the images lie in one world), "fov" (the centers of the fields of view meet), "center" (the
            centers of mass of what is brighter than the background meet), "rigid" or "affine" (mutual information, from
            whichever start leads to the best: these three, and turned poses about the centers of mass), or a file that
            holds an affine transform.
        fixed: ``(1, *fixed_grid.shape)``.
        fixed_grid: where its voxels lie.
        moving: ``(1, *moving_grid.shape)``.
        moving_grid: where its voxels lie.
        seed: of the sampling of the mutual information.
        fixed_mask: ``(1, *fixed_grid.shape)``, not zero where the image counts; default: everywhere.
        moving_mask: ``(1, *moving_grid.shape)``, likewise.

    Returns:
        Maps fixed to moving points, RAS+ mm (the direction in which images are resampled).

    Raises:
        ValueError: ``init`` is none of these; the file holds no affine transform of these dimensions; an image is
            constant, not finite or does not fit its grid or mask; the images do not overlap from any start.
    """
    n = fixed_grid.ndim
    if moving_grid.ndim != n:
        raise ValueError(f"a {n}-D fixed image and a {moving_grid.ndim}-D moving one cannot be aligned")
    if init not in CHOICES:
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
    expected = f"init must be one of {', '.join(CHOICES)} or a transform file"
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
