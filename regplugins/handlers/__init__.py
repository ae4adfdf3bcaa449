# SPDX-License-Identifier: Apache-2.0
"""Handlers of MONAI's engines, and validation scores."""

from __future__ import annotations

from regplugins.handlers.checkpoints import TrainingCheckpoints
from regplugins.handlers.scores import (
    correlation,
    folding_percent,
    mean_dice,
    mean_true_probability,
    negative_endpoint_error,
)
from regplugins.handlers.stopping import EarlyStopping
from regplugins.handlers.tables import ClassTable, SummaryTable
