# SPDX-License-Identifier: Apache-2.0
"""The pipeline's choice of a preset."""

import torch

from regplugins.registration import PresetRegistration
from regplugins.spatial import Grid
from regplugins.transforms import ChoosePresetd


def test_the_mask_decides_what_is_compared():
    """One half of the images is the same, in the other the contrast is turned."""
    torch.manual_seed(0)
    moving = 0.1 + 0.8 * torch.rand(40, 40)
    fixed = moving.clone()
    fixed[20:] = 1 - fixed[20:]
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., :20, :] = 1
    pair = {"moving": moving[None], "fixed": fixed[None], "pair": torch.stack([moving, fixed])}
    pair["grid"] = Grid((40, 40), torch.diag(torch.tensor([3.0, 1.5, 1.0], dtype=torch.float64)))
    choose = ChoosePresetd(PresetRegistration(smoothing=1.5))
    within, turned = (choose({**pair, "masks": {"fixed_mask": part}})["chosen"] for part in (mask, 1 - mask))
    assert (within["preset"], turned["preset"]) == ("same_modality", "multimodal")
    assert (within["linearity"], turned["linearity"]) == (1.0, -1.0)
    assert choose({**pair, "masks": {}})["chosen"]["preset"] == "multimodal"
    assert (within["spacing"], within["levels"]) == ([3.0, 1.5], [[6.0, 60], [3.0, 40], [1.5, 20]])
    assert within["parametrization"] == "GreedyField(smoothing=1.5, step=0.5, field_smoothing=0.5)"
