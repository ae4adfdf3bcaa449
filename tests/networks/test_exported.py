# SPDX-License-Identifier: Apache-2.0
"""Networks loaded from exported files."""

import pytest
import torch

from regplugins.networks import IdentityNetwork, MultiResolutionFCN, load_weights


@pytest.mark.parametrize("name", ["model.ts", "model.onnx"])
def test_no_such_file_and_a_damaged_one(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        load_weights(IdentityNetwork(), tmp_path, str(tmp_path / name))
    (tmp_path / name).write_bytes(b"PK, but not for long")
    with pytest.raises(ValueError, match=f"{name}: no exported network, or damaged"):
        load_weights(IdentityNetwork(), tmp_path, str(tmp_path / name))


def test_a_file_without_the_networks_numbers_gets_those_of_the_definition(tmp_path):
    """TensorRT files have operations without attributes."""

    class Doubled(torch.nn.Module):
        def forward(self, pair: torch.Tensor) -> torch.Tensor:
            return 2 * pair

    path = tmp_path / "model.ts"
    torch.jit.save(torch.jit.trace(Doubled(), torch.ones(1, 2, 4, 4)), path)
    definition = MultiResolutionFCN(spatial_dims=2)
    network = load_weights(definition, tmp_path, str(path))
    assert network.stride == definition.stride
    torch.testing.assert_close(network(torch.ones(1, 2, 4, 4)), torch.full((1, 2, 4, 4), 2.0))
