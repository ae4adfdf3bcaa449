# SPDX-License-Identifier: Apache-2.0
"""Handlers for MONAI's engines."""

from __future__ import annotations

from regplugins.handlers.checkpoints import TrainingCheckpoints
from regplugins.handlers.stopping import EarlyStopping

__all__ = ["EarlyStopping", "TrainingCheckpoints"]
