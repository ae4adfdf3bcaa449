# SPDX-License-Identifier: Apache-2.0
"""Image grids, transforms between their worlds, and the tensor algebra of displacement fields.

World coordinates are RAS+ millimeters. A displacement field in voxels ("DDF") is ``(B, n, *spatial)``, channel ``k``
along spatial axis ``k``.
"""

from regplugins.spatial.ddf import (
    compose_ddf,
    integrate_velocity,
    jacobian_determinant,
    per_axis,
    spline_basis,
    spline_values,
    subsample_ddf,
    upsample_ddf,
    upsample_ddf_by_axis,
)
from regplugins.spatial.grid import Grid
from regplugins.spatial.images import center_crop, crop, gradient_magnitude, pad_to_multiple
from regplugins.spatial.inversion import invert_ddf
from regplugins.spatial.resample import (
    antialiased,
    block_mean,
    downsample,
    downsample_field,
    downsampling_error,
    is_ct,
    outside_value,
    overlap,
    resample,
    resample_labels,
    resample_to_grid,
)
from regplugins.spatial.transforms import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    SpatialTransform,
    rigid_parameters,
    rigid_transform,
)
from regplugins.spatial.warp import identity_grid, warp, warp_center
