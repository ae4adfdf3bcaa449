# SPDX-License-Identifier: Apache-2.0
"""From files to pairs: reading, records, data sets, preparation."""

from __future__ import annotations

from regplugins.data.aligned_pairs import prepare_aligned_pairs
from regplugins.data.brains import prepare_brains
from regplugins.data.datasets import ClassDataset, PairDataset, PairSampler
from regplugins.data.heads import prepare_heads
from regplugins.data.hippocampus import prepare_hippocampus
from regplugins.data.pairs import (
    balanced,
    multimodal_pairs,
    paired_modalities,
    sequence_pairs,
    spread,
)
from regplugins.data.random_warps import RandomWarp
from regplugins.data.records import PATH_KEYS, image_records, ordered_pairs, pair_records, read_datalist, swapped_key
from regplugins.data.volumes import load_grid, load_image, load_label, load_mask

# What ``python -m regplugins prepare`` knows, by name: folder as downloaded, folder for the datalist -> datalist.
DATASETS = {"brains": prepare_brains, "heads": prepare_heads, "hippocampus": prepare_hippocampus}

__all__ = [
    "DATASETS",
    "PATH_KEYS",
    "ClassDataset",
    "PairDataset",
    "PairSampler",
    "RandomWarp",
    "balanced",
    "image_records",
    "load_grid",
    "load_image",
    "load_label",
    "load_mask",
    "multimodal_pairs",
    "ordered_pairs",
    "pair_records",
    "paired_modalities",
    "prepare_aligned_pairs",
    "prepare_brains",
    "prepare_heads",
    "prepare_hippocampus",
    "read_datalist",
    "sequence_pairs",
    "spread",
    "swapped_key",
]
