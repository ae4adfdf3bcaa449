# SPDX-License-Identifier: Apache-2.0
"""Transforms, landmarks and images as files, in the formats of ITK, ANTs and Slicer. Only here is the world LPS."""

from __future__ import annotations

from regplugins.io.chains import are_fields, chain_files, check_output, read_chain, write_chain
from regplugins.io.displacement import read_displacement, write_displacement
from regplugins.io.files import (
    atomic,
    atomic_folder,
    in_existing_folder,
    keep_inputs,
    output_folder,
    read_json,
    remove_temporaries,
    sha256,
)
from regplugins.io.images import load_grid, load_image, load_label, load_mask, read_image, read_label, write_image
from regplugins.io.landmarks import landmarks_outside, read_landmark_names, read_landmarks, write_landmarks
from regplugins.io.locks import FolderLock, folder_lock
from regplugins.io.strict_json import json_text, none_for_nan
from regplugins.io.transform_files import may_hold_field, read_transform, write_transform

__all__ = [
    "FolderLock",
    "are_fields",
    "atomic",
    "atomic_folder",
    "chain_files",
    "check_output",
    "folder_lock",
    "in_existing_folder",
    "json_text",
    "keep_inputs",
    "landmarks_outside",
    "load_grid",
    "load_image",
    "load_label",
    "load_mask",
    "may_hold_field",
    "none_for_nan",
    "output_folder",
    "read_chain",
    "read_displacement",
    "read_image",
    "read_json",
    "read_label",
    "read_landmark_names",
    "read_landmarks",
    "read_transform",
    "remove_temporaries",
    "sha256",
    "write_chain",
    "write_displacement",
    "write_image",
    "write_landmarks",
    "write_transform",
]
