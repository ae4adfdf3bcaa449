# SPDX-License-Identifier: Apache-2.0
"""Metrics of a registration: regularity, landmark and transform error, consistency, similarity, label overlap."""

from regplugins.metrics.classification import classification_scores
from regplugins.metrics.consistency import inverse_consistency_error, sample_points
from regplugins.metrics.folding import folding_percent, sd_log_jacobian, sd_log_jacobian_learn2reg
from regplugins.metrics.landmarks import landmark_errors, landmark_statistics, target_registration_error
from regplugins.metrics.overlap import compare_label_sets, label_overlap, mean_overlap, warped_agreement
from regplugins.metrics.similarity import (
    histogram_information,
    mutual_information,
    normalized_correlation,
    subsample_volume,
)
from regplugins.metrics.transform_error import distance_statistics, endpoint_error, motion_error
