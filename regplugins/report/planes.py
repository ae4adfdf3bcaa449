# SPDX-License-Identifier: Apache-2.0
"""Displayed planes of a volume in radiological convention.

The patient's right (sagittal: front) is on the left of the picture, front or head at its top. Voxels are not resampled:
an oblique volume is cut along its own axes, each named after the nearest anatomical direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import io_orientation
from torch import Tensor

from regplugins.spatial.grid import Grid

# Cut across world axis -> (name, world axis across the picture, world axis down the picture).
_PLANES = {2: ("axial", 0, 1), 1: ("coronal", 0, 2), 0: ("sagittal", 1, 2)}
_ENDS = ("LR", "PA", "IS")


@dataclass(frozen=True)
class Plane:
    """A slice of an ``n``-dimensional array as a picture.

    Args:
        name: "axial", "coronal" or "sagittal".
        position: array axis normal to the slice, and index of the slice; None for a 2-D image.
        axes: array axes that run down and across the picture.
        flipped: True for axes that are shown with the highest index first.
        spacing: mm between the rows, and between the columns, of the picture.
        size: number of its rows and columns.
        ends: letters at its left, right, top and bottom edge.
    """

    name: str
    position: tuple[int, int] | None
    axes: tuple[int, int]
    flipped: tuple[bool, bool]
    spacing: tuple[float, float]
    size: tuple[int, int]
    ends: tuple[str, str, str, str]

    @property
    def height(self) -> float:
        """Height of the picture in mm."""
        return self.size[0] * self.spacing[0]

    @property
    def width(self) -> float:
        """Width of the picture in mm."""
        return self.size[1] * self.spacing[1]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge in mm from the center of the picture's first voxel, downwards."""
        down, across = self.spacing
        return -across / 2, self.width - across / 2, self.height - down / 2, -down / 2

    def take(self, array: Tensor) -> np.ndarray:
        """Slice ``(C, rows, columns)``, float64, of a tensor ``(C, *spatial)``; copies the slice only."""
        if self.position is not None:
            array = array.select(1 + self.position[0], self.position[1])
        return self.turn(array.detach().cpu().double().numpy())

    def project(self, index: np.ndarray) -> np.ndarray:
        """Project voxel indices ``(m, n)`` onto the picture: across and down, ``(m, 2)`` mm."""
        sides = zip(self.axes, self.flipped, self.size, self.spacing, strict=True)
        down, across = ((size - 1 - index[:, k] if flip else index[:, k]) * edge for k, flip, size, edge in sides)
        return np.stack([across, down], axis=1)

    def turn(self, array: np.ndarray) -> np.ndarray:
        """Reorder a slice ``(C, first axis, second axis)`` of an array to the picture's rows and columns."""
        if self.axes[0] > self.axes[1]:
            array = array.swapaxes(1, 2)
        return array[:, :: -1 if self.flipped[0] else 1, :: -1 if self.flipped[1] else 1]


def display_planes(grid: Grid, center: tuple[int, ...]) -> list[Plane]:
    """Axial, coronal and sagittal plane through the voxel ``center``.

    A 2-D image has one plane. Planes that would be one voxel wide are left out.
    """
    orientation = io_orientation(grid.affine.numpy())
    array_axis = {int(world): axis for axis, world in enumerate(orientation[:, 0])}
    spacing = grid.spacing.tolist()
    planes = []
    for world_cut, (name, *world_shown) in _PLANES.items():
        if grid.ndim == 2 and world_cut != 2:
            continue
        across, down = (array_axis[world] for world in world_shown)
        left_right, top_bottom = (_ENDS[world][::-1] for world in world_shown)
        planes.append(
            Plane(
                name=name if grid.ndim == 3 else "",
                position=(array_axis[world_cut], center[array_axis[world_cut]]) if grid.ndim == 3 else None,
                axes=(down, across),
                flipped=(bool(orientation[down, 1] > 0), bool(orientation[across, 1] > 0)),
                spacing=(spacing[down], spacing[across]),
                size=(grid.shape[down], grid.shape[across]),
                ends=(*left_right, *top_bottom),
            )
        )
    return [plane for plane in planes if min(plane.size) > 1] or planes[:1]
