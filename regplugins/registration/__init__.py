# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair of images without training: initial alignment and optimization."""

from regplugins.registration.affine import AffineInitializer, AffineRegistration
from regplugins.registration.convex import ConvexInitializer
from regplugins.registration.deformable import DeformableRegistration
from regplugins.registration.image_pair import ImagePair, min_spacing
from regplugins.registration.initial import INIT_CHOICES, initial_transform
from regplugins.registration.intensity import otsu_threshold, scale_percentiles
from regplugins.registration.label_demons import align_labels
from regplugins.registration.modality import is_one_modality, modality_statistics
from regplugins.registration.mutual_information import maximize_mutual_information, refine_rigid
from regplugins.registration.network_grid import automatic_spacing, network_grid
from regplugins.registration.optimize import optimize_pair
from regplugins.registration.parametrization import (
    BSplineField,
    CompositiveField,
    GreedyField,
    Parametrization,
    StationaryVelocityField,
    one_line,
)
from regplugins.registration.poses import align_centers_of_mass, align_fields_of_view, center_of_mass
from regplugins.registration.presets import PresetRegistration
from regplugins.registration.volume import Volume
from regplugins.registration.weights_optimizer import WeightsOptimizer
