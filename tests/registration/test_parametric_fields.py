# SPDX-License-Identifier: Apache-2.0
"""Parametric fields against SciPy."""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as Spline

from regplugins.registration import BSplineField


@pytest.mark.parametrize(("size", "distance"), [(20, 3), (13, 4), (9, 1), (2, 5)])
def test_the_spline_is_scipys(size, distance):
    """One axis of a separable field, its control points found from the field that they make."""
    torch.manual_seed(0)
    optimizer = BSplineField(distance).optimizer(torch.zeros(1, 2, size, 7), 1)
    goal = torch.randn(1, 2, size, 7)
    for _ in range(3):
        optimizer.step(lambda ddf: (ddf - goal).square().mean())
    control = optimizer._parameters.detach()[0, 0].double().numpy()
    across = [Spline.basis_element(np.arange(-2, 3) + k, extrapolate=False) for k in range(-1, control.shape[0] - 1)]
    down = [Spline.basis_element(np.arange(-2, 3) + k, extrapolate=False) for k in range(-1, control.shape[1] - 1)]
    rows = np.nan_to_num([basis(np.arange(size) / distance) for basis in across])
    columns = np.nan_to_num([basis(np.arange(7) / distance) for basis in down])
    np.testing.assert_allclose(optimizer.ddf[0, 0].numpy(), rows.T @ control @ columns, atol=1e-5)
    assert np.abs(control).max() > 0.1
