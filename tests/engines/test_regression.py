# SPDX-License-Identifier: Apache-2.0
"""Regression of motions that are linear in known features."""

import csv

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from torch import Tensor, nn
from torch.utils.data import Dataset

from regplugins.engines import fit_regressor
from regplugins.engines.regression import r_squared
from regplugins.networks import RigidCNN


class Corners(nn.Module):
    """Four voxels as features."""

    def forward(self, image: Tensor) -> Tensor:
        return image[:, 0, 0, 0, :4]


class Pairs(Dataset):
    """Motions that are a linear map of the eight voxels that count."""

    def __init__(self) -> None:
        self.map = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        moving, fixed = torch.rand(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(index)).unbind()
        features = torch.cat([moving[0, 0, 0], fixed[0, 0, 0]])
        return {"moving": moving, "fixed": fixed, "motion": features @ self.map}


@pytest.fixture
def network() -> RigidCNN:
    return RigidCNN(Corners(), features=4)


def test_every_way_finds_the_map(network, tmp_path):
    baselines = ["levenberg_marquardt", "scaled_conjugate_gradient", "svr", "gaussian_process"]
    fit_regressor(network.eval(), Pairs(), tmp_path, pairs=150, held_out=40, baselines=baselines, iterations=30)
    rows = {row["regressor"]: row for row in csv.DictReader((tmp_path / "regression.csv").open())}
    assert list(rows) == ["head", "bayesian", *baselines]
    assert float(rows["head"]["r2"]) < 0.1  # zeros, not trained
    assert all(float(rows[name]["r2"]) > 0.9 for name in ["bayesian", *baselines])
    assert float(rows["bayesian"]["r2"]) > 0.999
    loaded = RigidCNN(Corners(), features=4, regressor="mlp")
    loaded.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    item = Pairs()[1000]
    predicted = loaded.eval()(torch.cat([item["moving"], item["fixed"]])[None])[0]
    torch.testing.assert_close(predicted, item["motion"], atol=0.1, rtol=0)


def test_r_squared_is_scikits():
    random = np.random.default_rng(0)
    targets = random.normal(size=(30, 6))
    predicted = targets + 0.3 * random.normal(size=(30, 6))
    expected = r2_score(targets, predicted, multioutput="raw_values")
    np.testing.assert_allclose(r_squared(torch.from_numpy(predicted), torch.from_numpy(targets)), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "svr"}, "method must be one of"),
        ({"pairs": 0}, "pairs must be a whole number of at least 2, got 0"),
        ({"held_out": 1}, "held_out must be a whole number"),
        ({"baselines": ["tree"]}, "baselines must be one of .*tree"),
    ],
)
def test_wrong_options(network, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        fit_regressor(network, Pairs(), tmp_path / "new", **({"pairs": 20, "held_out": 5} | wrong))
    assert not (tmp_path / "new").exists()
