# SPDX-License-Identifier: Apache-2.0
"""Baselines of Islam et al. 2021: evolutionary registration, and trainers of a small network."""

from regplugins.baselines.bayesian_mlp import train_mlp
from regplugins.baselines.least_squares import Evidence, maximize_evidence
from regplugins.baselines.one_plus_one_es import principal_axes_pose, register_one_plus_one_es
