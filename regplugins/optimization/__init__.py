# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by optimization."""

from __future__ import annotations

from regplugins.optimization.convex import ConvexStart
from regplugins.optimization.displacement import Displacement
from regplugins.optimization.linear import LinearOptimizer, LinearStart
from regplugins.optimization.model import DeformationModel
from regplugins.optimization.pair import PairOptimizer
from regplugins.optimization.parametric import BSpline, Velocity
from regplugins.optimization.pyramid import finest
from regplugins.optimization.scene import Scene
from regplugins.optimization.weights import WeightsOptimizer

__all__ = [
    "BSpline",
    "ConvexStart",
    "DeformationModel",
    "Displacement",
    "LinearOptimizer",
    "LinearStart",
    "PairOptimizer",
    "Scene",
    "Velocity",
    "WeightsOptimizer",
    "finest",
]
