# SPDX-License-Identifier: Apache-2.0
"""Stands for torchvision, of which MONAI Label imports two functions: builds of it that do not fit PyTorch's fail."""

from . import utils as utils
