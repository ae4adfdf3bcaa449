# SPDX-License-Identifier: Apache-2.0
"""Glue between MONAI's ignite engines and pairs of images."""

from __future__ import annotations

from regplugins.engines.alternating import AlternatingOptimizer, parameter_groups
from regplugins.engines.begin import begin_run
from regplugins.engines.folders import PairFolders, discard_results
from regplugins.engines.pairs import PairEvaluator
from regplugins.engines.processes import (
    SharedLoss,
    convert_sync_batchnorm,
    init_distributed,
    per_rank_batch_size,
    process_device,
)
from regplugins.engines.regression import fit_regressor
from regplugins.engines.training import (
    FieldsModule,
    batch_minimum,
    loss_terms,
    negative_loss,
    prepare_pair,
    prepare_rigid_pair,
    prepare_training_batch,
    single_pair,
)

__all__ = [
    "AlternatingOptimizer",
    "FieldsModule",
    "PairEvaluator",
    "PairFolders",
    "SharedLoss",
    "batch_minimum",
    "begin_run",
    "convert_sync_batchnorm",
    "discard_results",
    "fit_regressor",
    "init_distributed",
    "loss_terms",
    "negative_loss",
    "parameter_groups",
    "per_rank_batch_size",
    "prepare_pair",
    "prepare_rigid_pair",
    "prepare_training_batch",
    "process_device",
    "single_pair",
]
