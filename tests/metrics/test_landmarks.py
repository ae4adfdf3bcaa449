# SPDX-License-Identifier: Apache-2.0
"""Landmark error in closed form."""

import numpy as np
import pytest
import torch

from regplugins.metrics import landmark_statistics, target_registration_error


def test_pythagorean_distances() -> None:
    points = torch.tensor([[3.0, 4.0, 0.0], [1.0, 2.0, 2.0], [5.0, 5.0, 5.0]])
    reference = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    assert target_registration_error(points, reference).tolist() == [5.0, 3.0, 0.0]


@pytest.mark.parametrize("reference", [(4, 3), (5, 2), (5,)])
def test_lists_that_do_not_correspond(reference: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        target_registration_error(torch.zeros(5, 3), torch.zeros(reference))


def test_statistics_are_numpys() -> None:
    error = torch.tensor([3.0, 0.5, 9.0, 1.0])  # of an even number the median is the mean of the middle two
    expected = {name: pytest.approx(float(getattr(np, name)(error.numpy()))) for name in ("mean", "median", "max")}
    assert landmark_statistics(error) == expected
