# SPDX-License-Identifier: Apache-2.0
"""Image grids, transforms between their worlds, and the tensor algebra of displacement fields.

World coordinates are RAS+ millimeters. A displacement field in voxels ("DDF") is ``(B, n, *spatial)``, channel ``k``
along spatial axis ``k``.
"""

from __future__ import annotations

from regplugins.spatial.ddf import (
    compose_ddf,
    integrate_velocity,
    jacobian_determinant,
    subsample_ddf,
    upsample_ddf,
)
from regplugins.spatial.downsampling import downsample_field, downsampling_error
from regplugins.spatial.gradient import gradient_magnitude
from regplugins.spatial.grid import Grid
from regplugins.spatial.inversion import invert_ddf
from regplugins.spatial.padding import center_crop_or_pad, crop, pad_to_multiple
from regplugins.spatial.resample import block_mean, downsample, overlap, resample, resample_labels, resample_to_grid
from regplugins.spatial.rigid import rigid_parameters, rigid_transform
from regplugins.spatial.splines import spline_basis, spline_values
from regplugins.spatial.transforms import AffineTransform, CompositeTransform, DisplacementField, SpatialTransform
from regplugins.spatial.warp import identity_grid, warp, warp_center
