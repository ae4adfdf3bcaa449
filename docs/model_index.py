# SPDX-License-Identifier: Apache-2.0
"""Write models.md, the index of bundles and weights, from their metadata.

python docs/model_index.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent


def index(bundles: Path) -> str:
    """The page for a folder of bundles."""
    models = ["| bundle | version | method | trained on |", "|---|---|---|---|"]
    weights = ["| bundle | file | what | MB | sha256 |", "|---|---|---|---|---|"]
    for path in sorted(bundles.glob("*/configs/metadata.json")):
        metadata, folder = json.loads(path.read_text(encoding="utf-8")), path.parents[1]
        card = f"[`{folder.name}`](../bundles/{folder.name}/docs/README.md)"
        terms = f"[terms](../bundles/{folder.name}/docs/data_license.txt)"
        source = metadata["data_source"].split(". ")[0]
        models.append(f"| {card} | {metadata['version']} | {_method(metadata)} | {source} ({terms}) |")
        for name, entry in metadata["weights"].items():
            size = (folder / name).stat().st_size / 1e6
            weights.append(
                f"| `{folder.name}` | `{name}` | {entry['description']} | {size:.1f} | `{entry['sha256'][:16]}` |"
            )
    return "\n".join(
        [
            "# Models",
            "",
            "Made by `python docs/model_index.py` from each bundle's `configs/metadata.json`.",
            "Figures are in the model cards.",
            "",
            *models,
            "",
            "Weights, with the beginning of their sha256; `python -m regplugins bundles` checks the whole.",
            "",
            *weights,
            "",
        ]
    )


def _method(metadata: dict[str, list[str]]) -> str:
    """First author, year and address of a bundle's first reference."""
    text = metadata["references"][0]
    address = re.search(r"https?://\S+", text)
    years = re.findall(r"\b(?:19|20)\d\d\b", text.split("http")[0].split("arXiv")[0])
    label = f"{text.split()[0].rstrip(',')} {years[-1]}" if years else "none yet"
    return f"[{label}]({address[0]})" if address else label


if __name__ == "__main__":
    (HERE / "models.md").write_text(index(HERE.parent / "bundles"), encoding="utf-8")
