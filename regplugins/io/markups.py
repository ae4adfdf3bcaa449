# SPDX-License-Identifier: Apache-2.0
"""Landmark files of 3D Slicer: markups (``.mrk.json``) and fiducials (``.fcsv``), which say their world themselves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from regplugins.checks import choice
from regplugins.io.files import read_json

# Older versions of Slicer number the worlds.
_SPACES = {"RAS": "RAS", "0": "RAS", "LPS": "LPS", "1": "LPS"}
_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def read_markups(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Points of all lists in a ``.mrk.json`` as rows with x, y, z and name, and the world, "RAS" or "LPS".

    Raises:
        ValueError: if it is not such a file, its lists have different worlds or no millimeters, or a point was not
            placed.
    """
    content = read_json(path)
    rows, spaces = [], set()
    try:
        for markup in content["markups"]:
            spaces.add(choice("coordinateSystem", str(markup.get("coordinateSystem", "LPS")), _SPACES))
            if markup.get("coordinateUnits", "mm") != "mm":
                raise ValueError(f"coordinates in {markup['coordinateUnits']}, expected mm")
            for point in markup["controlPoints"]:
                name = str(point.get("label", ""))
                if point.get("positionStatus", "defined") != "defined" or not point.get("position"):
                    raise ValueError(f"point '{name}' was not placed")
                if len(point["position"]) != 3:
                    raise ValueError(f"point '{name}' has {len(point['position'])} coordinates, expected 3")
                rows.append({**dict(zip("xyz", point["position"], strict=True)), "name": name})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a markups file of Slicer ({error!r})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if len(spaces) > 1:
        raise ValueError(f"{path}: lists in {' and '.join(sorted(spaces))}, expected one world")
    return rows, spaces.pop() if spaces else "LPS"


def read_fiducials(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Points of an ``.fcsv`` as rows with x, y, z and name, and the world, "RAS" or "LPS"."""
    comments, lines = {}, []
    try:
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            key, equals, value = line.lstrip("# ").partition("=")
            if line.startswith("#") and equals:
                comments[key.strip()] = value.strip()
            elif line.strip() and not line.startswith("#"):
                lines.append(line)
        space = choice("CoordinateSystem", comments.get("CoordinateSystem", "RAS"), _SPACES)
    except ValueError as error:
        raise ValueError(f"{path}: not a fiducial file of Slicer ({error})") from error
    columns = [name.strip() for name in comments.get("columns", _COLUMNS).split(",")]
    if not {"x", "y", "z"} <= set(columns):
        raise ValueError(f"{path}: not a fiducial file of Slicer (columns {columns})")
    rows = [{**row, "name": row.get("label") or ""} for row in csv.DictReader(lines, columns)]
    return rows, space
