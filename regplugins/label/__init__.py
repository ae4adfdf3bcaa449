# SPDX-License-Identifier: Apache-2.0
"""MONAI Label integration: labels of annotated images are propagated to an open image by registration."""

from __future__ import annotations

from regplugins.label.monaibundle import AppInferer, FromAtlasd, OpenedImaged, PropagatedLabeld, lay_out
