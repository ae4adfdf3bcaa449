# SPDX-License-Identifier: Apache-2.0
"""Handlers for MONAI's engines."""

from __future__ import annotations

from regplugins.handlers.checkpoints import TrainingCheckpoints

__all__ = ["TrainingCheckpoints"]
