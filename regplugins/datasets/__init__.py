# SPDX-License-Identifier: Apache-2.0
"""Public data sets: their files, origin and terms, and their preparation for training and evaluation."""

from regplugins.datasets import brain_t1_labels, brains, heads, hippocampus, histology_2d, limbs, mouse_ct
from regplugins.datasets.aligned_pairs import prepare_aligned_pairs
from regplugins.datasets.base import DataSet, Source
from regplugins.datasets.brains import prepare_brains
from regplugins.datasets.given_folders import GIVEN_FOLDERS
from regplugins.datasets.heads import prepare_heads
from regplugins.datasets.hippocampus import prepare_hippocampus

_MODULES = (brain_t1_labels, brains, heads, hippocampus, histology_2d, limbs, mouse_ct)

# Keys are the names that ``regplugins prepare`` takes.
DATASETS = {one.name: one for one in (*GIVEN_FOLDERS, *(module.DATASET for module in _MODULES))}
