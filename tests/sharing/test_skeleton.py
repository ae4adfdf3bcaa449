# SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path
from typing import Any

import pytest

from regplugins.sharing.skeleton import configurations


def laid_over(tmp_path: Path, differences: dict[str, Any]) -> dict[str, Any]:
    (tmp_path / "bundle.json").write_text(json.dumps({"train": differences}))
    config: dict[str, Any] = json.loads(configurations(tmp_path)["configs/train.json"])
    return config


def test_a_base_lies_between_what_all_bundles_share_and_what_one_changes(tmp_path: Path) -> None:
    plain = laid_over(tmp_path, {})
    config = laid_over(tmp_path, {"base": "contrasts", "families": None, "train#remap#prob": 0.25})
    assert "base" not in config and "shares" not in plain
    assert config["shares"].keys() == {"identity", "warped", "between"}
    assert config["train"]["dataset"]["_target_"] == "regplugins.data.ContrastPairDataset"
    assert config["families"] is None
    assert config["train"]["remap"] == {"_target_": "regplugins.data.RandRemap", "prob": 0.25}
    assert config["train"]["trainer"] == plain["train"]["trainer"]


def test_a_base_lies_over_its_own_base(tmp_path: Path) -> None:
    contrasts = laid_over(tmp_path, {"base": "contrasts"})
    config = laid_over(tmp_path, {"base": "dual_supervision", "patience": 3})
    assert config["patience"] == 3 and "patience" not in contrasts
    assert config["train"]["remap"] == contrasts["train"]["remap"]
    assert config["image_objective"]["_target_"] == "regplugins.losses.DualModalityLoss"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": {"base": "contrast"}}, r"train: no base 'contrast'; expected \['contrasts', "),
        ({"refine": {"base": "contrasts"}}, r"refine: no base 'contrasts'; expected \[\]"),
        ({"trian": {}}, r"no shared configuration 'trian'; expected \['evaluate', 'inference'"),
        ({"train": {"-": ["absent"]}}, "train cannot be laid over"),
        ({"train": {"seed#a": 1}}, "train cannot be laid over"),
        ({"train/contrasts": {}}, "no shared configuration 'train/contrasts'"),
    ],
)
def test_what_cannot_be_laid_over_names_the_file(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}/bundle.json: {message}"):
        configurations(tmp_path)
