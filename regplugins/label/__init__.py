# SPDX-License-Identifier: Apache-2.0
"""Labels for MONAI Label: an annotated image is registered to the one that is open, and its labels come along."""

from __future__ import annotations

from regplugins.label.layout import lay_out
from regplugins.label.transforms import BatchOfOned, FromAtlasd, OpenedImaged, PropagatedLabeld

__all__ = ["BatchOfOned", "FromAtlasd", "OpenedImaged", "PropagatedLabeld", "lay_out"]
