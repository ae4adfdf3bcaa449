# SPDX-License-Identifier: Apache-2.0
"""Regression of a few numbers on features: a small network, and ways to train it (Islam et al. 2021)."""

from __future__ import annotations

from regplugins.regressors.bayesian_mlp import MLP, train_mlp
from regplugins.regressors.least_squares import Evidence, maximize_evidence

__all__ = ["MLP", "Evidence", "maximize_evidence", "train_mlp"]
