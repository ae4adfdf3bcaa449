# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of images, transforms and landmarks. LPS world coordinates occur only here.

Readers raise ``FileNotFoundError`` if there is no such file, and ``ValueError`` if it is damaged or of unsuitable
content. Writers raise ``FileNotFoundError`` if the folder does not exist. Messages name the file.
"""

from regplugins.io.displacement import read_displacement, write_displacement
from regplugins.io.files import (
    atomic,
    atomic_folder,
    in_existing_folder,
    json_text,
    none_for_nan,
    output_folder,
    read_json,
    refuse_overwriting_inputs,
    remove_temporaries,
    sha256,
)
from regplugins.io.images import load_grid, load_image, load_label, load_mask, read_image, read_label, write_image
from regplugins.io.landmarks import landmarks_outside, read_landmark_names, read_landmarks, write_landmarks
from regplugins.io.locks import FolderLock, folder_lock
from regplugins.io.transform_files import (
    are_fields,
    chain_files,
    check_output,
    may_hold_field,
    read_chain,
    read_transform,
    write_chain,
    write_transform,
)
