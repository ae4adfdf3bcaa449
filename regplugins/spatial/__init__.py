# SPDX-License-Identifier: Apache-2.0
"""Where images lie, how worlds map to each other, and the tensor algebra of displacement fields under it.

World coordinates are RAS+ millimeters. Displacement fields in voxels ("DDF") are ``(B, n, *spatial)`` tensors, channel
``k`` along spatial axis ``k``.
"""

from __future__ import annotations

from regplugins.spatial.coarsening import coarsened, coarsening_error
from regplugins.spatial.ddf import compose, enlarge, exponentiate, jacobian_determinant
from regplugins.spatial.gradient import gradient_magnitude
from regplugins.spatial.grid import Grid
from regplugins.spatial.inversion import invert
from regplugins.spatial.padding import center, crop, pad_to_multiple
from regplugins.spatial.pyramid import half_resolution
from regplugins.spatial.resample import averaged, onto_grid, overlap, resample, resample_labels
from regplugins.spatial.rigid import rigid_parameters, rigid_transform
from regplugins.spatial.splines import spline_basis, spline_values
from regplugins.spatial.transforms import AffineTransform, CompositeTransform, DisplacementField, Transform
from regplugins.spatial.warp import identity_grid, warp, warp_middle

__all__ = [
    "AffineTransform",
    "CompositeTransform",
    "DisplacementField",
    "Grid",
    "Transform",
    "averaged",
    "center",
    "coarsened",
    "coarsening_error",
    "compose",
    "crop",
    "enlarge",
    "exponentiate",
    "gradient_magnitude",
    "half_resolution",
    "identity_grid",
    "invert",
    "jacobian_determinant",
    "onto_grid",
    "overlap",
    "pad_to_multiple",
    "resample",
    "resample_labels",
    "rigid_parameters",
    "rigid_transform",
    "spline_basis",
    "spline_values",
    "warp",
    "warp_middle",
]
