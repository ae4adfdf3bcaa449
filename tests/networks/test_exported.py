# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from regplugins.networks import NoDeformation, load_weights


@pytest.mark.parametrize("name", ["model.ts", "model.onnx"])
def test_no_such_file_and_a_damaged_one(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        load_weights(NoDeformation(), tmp_path, str(tmp_path / name))
    (tmp_path / name).write_bytes(b"PK, but not for long")
    with pytest.raises(ValueError, match=f"{name}: no exported network, or damaged"):
        load_weights(NoDeformation(), tmp_path, str(tmp_path / name))
