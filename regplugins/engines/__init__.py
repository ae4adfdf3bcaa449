# SPDX-License-Identifier: Apache-2.0
"""Adapters of MONAI's ignite engines to pairs of images."""

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
    collate_single_pair,
    loss_terms,
    negative_loss,
    prepare_pair,
    prepare_rigid_pair,
    prepare_training_batch,
)
