# SPDX-License-Identifier: Apache-2.0
"""What is told about a registered pair: its measures, the quality-control picture, report and summary files."""

from __future__ import annotations

from regplugins.report.classes import ClassTable, classification_scores
from regplugins.report.figure import registration_figure
from regplugins.report.files import WritePaird
from regplugins.report.folders import PairFolders
from regplugins.report.measure import MeasurePaird, closeness, correlation, folding, mean_dice
from regplugins.report.page import write_page
from regplugins.report.summary import headline, json_text, pair_report, sha256, summary_row, versions, write_json
from regplugins.report.table import SummaryTable

__all__ = [
    "ClassTable",
    "MeasurePaird",
    "PairFolders",
    "SummaryTable",
    "WritePaird",
    "classification_scores",
    "closeness",
    "correlation",
    "folding",
    "headline",
    "json_text",
    "mean_dice",
    "pair_report",
    "registration_figure",
    "sha256",
    "summary_row",
    "versions",
    "write_json",
    "write_page",
]
