# SPDX-License-Identifier: Apache-2.0
"""Web page of many registered pairs: a sortable table of their metrics, and their pictures."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import quote

from PIL import Image

from regplugins.io import atomic
from regplugins.report.summary import column_unit
from regplugins.report.table import read_table, summarize

_TABLES = ("summary.csv", "metrics.csv")
_THUMBNAIL = (840, 840)


def write_page(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of the pairs of a run, a file that contains all but the full-size pictures.

    The folder is the output of an inference over a datalist (``summary.csv`` and a folder a pair) or of an evaluation
    (``metrics.csv``).

    Raises:
        FileNotFoundError: if there is neither table.
        ValueError: if the table has no rows or no column ``name``.
    """
    folder = Path(folder)
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is None:
        raise FileNotFoundError(f"{folder}: has neither {' nor '.join(_TABLES)}; register a datalist first")
    rows = read_table(table)
    if not rows or "name" not in rows[0]:
        raise ValueError(f"{table}: expected a row a pair with a column 'name'")
    numbers = [{key: _number(cell) for key, cell in row.items() if key != "name"} for row in rows]
    columns = [key for key in numbers[0] if any(row[key] is not None for row in numbers)]
    done = sum(map(_is_done, rows))
    others = f", {len(rows) - done} not registered" if done < len(rows) else ""
    pictures = [f"{row['name']}/report.png" for row in rows]
    if len(rows) == 1 and (folder / "report.png").is_file():
        pictures = ["report.png"]  # a single pair has no folder of its own
    shown = any((folder / picture).is_file() for picture in pictures)
    lines = [
        _line(row, metrics, columns, _thumbnail(folder, picture, row["name"]) if shown else None)
        for row, metrics, picture in zip(rows, numbers, pictures, strict=True)
    ]
    headings = [f'<th scope="col"><button>{_heading(column)}</button></th>' for column in ("pair", *columns)]
    # Pictures follow the names, to stay visible in a wide table.
    headings[1:1] = ['<th scope="col"></th>'] if shown else []
    page = Template(files("regplugins.report").joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(f"Registered pairs: {folder.resolve().name}"),
        subtitle=f"{len(rows)} pairs{others}. Click a heading to sort by it, a picture to see it in full size.",
        headings="".join(headings),
        rows="\n".join(lines),
        feet=_foot(numbers, columns, shown, done),
    )
    with atomic(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / "report.html"


def _line(
    row: Mapping[str, str], metrics: Mapping[str, float | None], columns: Sequence[str], picture: str | None
) -> str:
    name = html.escape(row["name"])
    reason = "" if _is_done(row) else ": ".join(filter(None, (row["status"], row.get("error"))))
    note = f"<br><small>{html.escape(reason)}</small>" if reason else ""
    cells = [f'<td data-value="{name}">{name}{note}</td>']
    if picture is not None:
        cells.append(f"<td>{picture}</td>")
    for column in columns:
        value = metrics[column]
        cells.append("<td></td>" if value is None else f'<td data-value="{value!r}">{value:.4g}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _is_done(row: Mapping[str, str]) -> bool:
    """Tell whether a pair was registered; a table of metrics has no others."""
    return row.get("status", "done") == "done"


def _thumbnail(folder: Path, picture: str, name: str) -> str:
    if not (folder / picture).is_file():
        return ""
    with Image.open(folder / picture) as image:
        small = image.convert("RGB")
        small.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img src="data:image/jpeg;base64,{data}" alt="picture of {html.escape(name)}">'
    return f'<a href="{html.escape(quote(picture))}">{image}</a>'


def _foot(numbers: Sequence[Mapping[str, float | None]], columns: Sequence[str], shown: bool, done: int) -> str:
    """Mean and standard deviation of each column, with the number of pairs where that is not ``done``."""
    statistics = summarize(numbers)
    cells = []
    for column in columns:
        metric = statistics[column]
        count = "" if metric["n"] == done else f"<br>n = {metric['n']}"
        cells.append(f"<td>{metric['mean']:.4g}<br>± {metric['sd']:.2g}{count}</td>")
    return f"<tr><td>mean ± sd</td>{'<td></td>' if shown else ''}{''.join(cells)}</tr>"


def _heading(column: str) -> str:
    unit = column_unit(column)
    text = html.escape(column.replace("_", " ").replace("percent", "%"))
    return f"{text}<br><small>{unit}</small>" if unit else text


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
