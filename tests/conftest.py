# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: seeds, a display that needs no screen, repeatable generated cases."""

import os

import numpy as np
import pytest
import torch
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")
# A test that fails must fail again; the time of one example depends on who else uses the machine.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random numbers, whichever tests run before it."""
    torch.manual_seed(0)
    np.random.seed(0)
