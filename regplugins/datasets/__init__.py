# SPDX-License-Identifier: Apache-2.0
"""Public data sets: their files, origin and terms, and their preparation for training and evaluation."""

from __future__ import annotations

from regplugins.datasets import (
    abdomen_ct_mr,
    brain_t1_labels,
    brains,
    cardiac_cine,
    cardiac_cine_train,
    ct_mr_limbs,
    head_ct_mr_phantom,
    heads,
    hippocampus,
    histology_2d,
    label_maps,
    liver_mr4d,
    lung_ct,
    lung_mr,
    mouse_ct,
    thorax_ct,
)
from regplugins.datasets.aligned_pairs import prepare_aligned_pairs
from regplugins.datasets.base import DataSet, Source
from regplugins.datasets.brains import prepare_brains
from regplugins.datasets.heads import prepare_heads
from regplugins.datasets.hippocampus import prepare_hippocampus

# By the name that ``python -m regplugins prepare`` takes.
DATASETS = {
    module.DATASET.name: module.DATASET
    for module in (
        *(abdomen_ct_mr, brain_t1_labels, brains, cardiac_cine, cardiac_cine_train, ct_mr_limbs, head_ct_mr_phantom),
        *(heads, hippocampus, histology_2d, label_maps, liver_mr4d, lung_ct, lung_mr, mouse_ct, thorax_ct),
    )
}

__all__ = [
    "DATASETS",
    "DataSet",
    "Source",
    "prepare_aligned_pairs",
    "prepare_brains",
    "prepare_heads",
    "prepare_hippocampus",
]
