# SPDX-License-Identifier: Apache-2.0
"""Records of pairs and images, PyTorch data sets and random warps."""

from __future__ import annotations

from regplugins.data.contrast import RandAxisResolution, RandContrast, RandLabelContrast, RandRemap
from regplugins.data.contrast_pairs import ContrastPairDataset
from regplugins.data.datasets import ClassDataset, PairDataset, PairSampler
from regplugins.data.pairs import (
    balance_by,
    multimodal_pairs,
    paired_modalities,
    sequence_pairs,
    subsample,
)
from regplugins.data.random_warps import RandomWarp
from regplugins.data.records import PATH_KEYS, image_records, ordered_pairs, pair_records, read_datalist, swapped_key
