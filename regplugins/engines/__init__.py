# SPDX-License-Identifier: Apache-2.0
"""Glue between MONAI's ignite engines and pairs of images."""

from __future__ import annotations

from regplugins.engines.begin import begin_run
from regplugins.engines.in_turn import InTurn, parameter_groups
from regplugins.engines.pairs import PairEvaluator
from regplugins.engines.processes import SharedLoss, process_device, share_of, start_processes, synchronized
from regplugins.engines.regression import fit_regressor
from regplugins.engines.training import (
    FieldsModule,
    least,
    loss_terms,
    negative_loss,
    prepare_pair,
    prepare_training_batch,
    single_pair,
)

__all__ = [
    "FieldsModule",
    "InTurn",
    "PairEvaluator",
    "SharedLoss",
    "begin_run",
    "fit_regressor",
    "least",
    "loss_terms",
    "negative_loss",
    "parameter_groups",
    "prepare_pair",
    "prepare_training_batch",
    "process_device",
    "share_of",
    "single_pair",
    "start_processes",
    "synchronized",
]
