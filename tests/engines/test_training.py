# SPDX-License-Identifier: Apache-2.0
"""Adapters between MONAI's engines and networks."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from regplugins.engines import (
    FieldsModule,
    batch_minimum,
    collate_single_pair,
    init_distributed,
    loss_terms,
    negative_loss,
    per_rank_batch_size,
    prepare_pair,
    prepare_training_batch,
)
from regplugins.losses import FireLoss
from regplugins.networks import Fire, MultiResolutionFCN


def test_fields_module_gives_the_networks_fields_with_gradients() -> None:
    network = MultiResolutionFCN(2, channels=(2, 2, 2, 2, 2, 2)).eval()
    pair = torch.rand(1, 2, 8, 12)
    for field, expected in zip(FieldsModule(network)(pair), network.fields(pair), strict=True):
        torch.testing.assert_close(field, expected)
    # The regressions stay in float32 under autocast.
    assert {field.dtype for field in FieldsModule(network, amp=True)(pair)} == {torch.float32}
    with pytest.raises(TypeError, match="amp must be True or False"):
        FieldsModule(network, amp="true")  # type: ignore[arg-type]


def test_a_network_that_diverged_is_told() -> None:
    """In 2-D PyTorch's gradient of a position that is no number would end the process."""
    network = Fire(2, channels=4, blocks=1)
    torch.nn.init.constant_(network.transform_ab.nonrigid.regression.conv.bias, torch.nan)
    with pytest.raises(ValueError, match="training diverged"):
        FieldsModule(network)(torch.rand(1, 2, 16, 16))


def test_moving_comes_first() -> None:
    batch = {"moving": torch.zeros(2, 1, 4, 4), "fixed": torch.ones(2, 1, 4, 4), "fixed_mask": torch.ones(2, 1, 4, 4)}
    pair, target = prepare_training_batch(batch, "cpu")
    assert pair.mean(dim=(0, 2, 3)).tolist() == [0, 1]
    assert target["mask"] is not None and "fixed_mask" not in target
    assert "fixed_mask" in batch  # the loader's own is not touched


def test_negative_loss_is_larger_for_what_is_better() -> None:
    def objective(field: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        return (field - target["fixed"]).square().mean()

    score = negative_loss(objective)  # type: ignore[arg-type]
    target = {"fixed": torch.ones(1, 1, 4, 4)}
    assert score({"pred": torch.zeros(1, 1, 4, 4), "label": target}) == -1
    assert score({"pred": torch.ones(1, 1, 4, 4), "label": target}) == 0


def test_curves_of_every_term_and_of_the_determinants() -> None:
    torch.manual_seed(0)
    network = Fire(2, channels=4, blocks=1)
    torch.nn.init.constant_(network.transform_ab.affine.sharpness, 0.5)
    fields = FieldsModule(network)(torch.rand(3, 2, 16, 16))
    objective = FireLoss({"inverse_consistency": 0.5})
    terms = loss_terms(objective)({"pred": fields})
    weighted = sum(objective.weights[name] * value for name, value in terms.items())
    assert weighted == pytest.approx(float(objective(fields, {})), rel=1e-5)
    found = batch_minimum(["determinant_ab", "determinant_ba"])({"pred": fields})
    expected = min(float(np.linalg.det(affine[:, :2].detach().numpy())) for affine in fields["affine_ab"])
    assert found == {"determinant_ab": pytest.approx(expected, rel=1e-5), "determinant_ba": 1.0}
    assert expected != pytest.approx(1, abs=0.01)


def test_one_pair_at_a_time() -> None:
    item = {"pair": torch.rand(2, 4, 4), "masks": {"fixed_mask": torch.ones(1, 1, 4, 4)}}
    inputs, target, arguments, masks = prepare_pair(collate_single_pair([item]), "cpu")
    assert inputs.shape == (1, 2, 4, 4) and target is None and not arguments
    assert torch.equal(masks["fixed_mask"], item["masks"]["fixed_mask"])
    with pytest.raises(ValueError, match="a batch of 2"):
        collate_single_pair([item, item])


def test_a_batch_that_cannot_be_shared() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        assert per_rank_batch_size(4) == 2
        with pytest.raises(ValueError, match="batch_size must be a multiple of the number of processes, 2, got 3"):
            per_rank_batch_size(3)
    finally:
        dist.destroy_process_group()


def test_several_processes_want_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(RuntimeError, match="torchrun"):
        init_distributed()
