# SPDX-License-Identifier: Apache-2.0
"""Figures that judge a registration: regularity, landmark error, inverse consistency, similarity, overlap of labels."""

from __future__ import annotations

from regplugins.metrics.agreement import warped_agreement
from regplugins.metrics.consistency import inverse_consistency_error, sample_points
from regplugins.metrics.folding import FoldingMetric, folding_percent, sd_log_jacobian
from regplugins.metrics.landmarks import target_registration_error
from regplugins.metrics.overlap import label_overlap, mean_overlap
from regplugins.metrics.similarity import mutual_information, normalised_correlation

__all__ = [
    "FoldingMetric",
    "folding_percent",
    "inverse_consistency_error",
    "label_overlap",
    "mean_overlap",
    "mutual_information",
    "normalised_correlation",
    "sample_points",
    "sd_log_jacobian",
    "target_registration_error",
    "warped_agreement",
]
