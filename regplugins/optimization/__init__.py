# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by optimisation."""

from __future__ import annotations

from regplugins.optimization.field import FieldOptimizer
from regplugins.optimization.weights import WeightsOptimizer

__all__ = ["FieldOptimizer", "WeightsOptimizer"]
