# SPDX-License-Identifier: Apache-2.0
"""Write models.md, the index of bundles and weights, from their metadata.

python docs/model_index.py
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent


def index(bundles: Path) -> str:
    """The page for a folder of bundles."""
    rows = ["|bundle|version|terms|weights|MB|sha256|", "|---|---|---|---|---|---|"]
    for path in sorted(bundles.glob("*/configs/metadata.json")):
        metadata, folder = json.loads(path.read_text(encoding="utf-8")), path.parents[1]
        card = f"[`{folder.name}`](../bundles/{folder.name}/docs/README.md)"
        terms = f"[terms](../bundles/{folder.name}/docs/data_license.txt)"
        bundle = f"|{card}|{metadata['version']}|{terms}|"
        for name, entry in metadata["weights"].items():
            size = (folder / name).stat().st_size / 1e6
            rows.append(f"{bundle}`{name}`: {entry['description']}|{size:.1f}|`{entry['sha256'][:16]}`|")
        if not metadata["weights"]:
            rows.append(f"{bundle}none|||")
    return "\n".join(
        [
            "# Models",
            "",
            "Made by `python docs/model_index.py` from each bundle's `configs/metadata.json`.",
            "The sha256 is its beginning; `regplugins bundles` checks the whole.",
            "",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    (HERE / "models.md").write_text(index(HERE.parent / "bundles"), encoding="utf-8")
