# SPDX-License-Identifier: Apache-2.0
"""Quality-control picture, report, page and tables of registered pairs."""

from __future__ import annotations

from regplugins.report.figure import pair_figure
from regplugins.report.page import write_page
from regplugins.report.summary import headline_metrics, json_text, pair_report, summary_row, versions, write_json
from regplugins.report.table import remove_pair_table
