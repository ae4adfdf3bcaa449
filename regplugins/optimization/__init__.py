# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by optimisation."""

from __future__ import annotations

from regplugins.optimization.displacement import Displacement
from regplugins.optimization.pair import PairOptimizer
from regplugins.optimization.weights import WeightsOptimizer

__all__ = ["Displacement", "PairOptimizer", "WeightsOptimizer"]
