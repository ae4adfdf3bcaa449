# SPDX-License-Identifier: Apache-2.0
"""Public data sets: their preparation for training and evaluation."""

from __future__ import annotations

from regplugins.datasets.aligned_pairs import prepare_aligned_pairs
from regplugins.datasets.brains import prepare_brains
from regplugins.datasets.heads import prepare_heads
from regplugins.datasets.hippocampus import prepare_hippocampus

# By the name that ``python -m regplugins prepare`` takes: folder as downloaded, folder for the datalist -> datalist.
DATASETS = {"brains": prepare_brains, "heads": prepare_heads, "hippocampus": prepare_hippocampus}

__all__ = ["DATASETS", "prepare_aligned_pairs", "prepare_brains", "prepare_heads", "prepare_hippocampus"]
