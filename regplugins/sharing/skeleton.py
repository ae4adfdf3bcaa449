# SPDX-License-Identifier: Apache-2.0
"""The configurations that bundles share, and a bundle's own differences laid over them."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle.utils import merge_kv

from regplugins.io.files import PathLike, atomic, read_json

SOURCE = "bundle.json"
_SHARED = Path(__file__).with_name("configs")
_LOGGING = "configs/logging.conf"
_REMOVED = "-"
_BASE = "base"
_LINE = 120
_INDENT = "    "


def build(bundle: PathLike) -> list[Path]:
    """Write the configurations of a bundle's folder, and return those that changed; errors as ``configurations``."""
    bundle, changed = Path(bundle), []
    for name, text in configurations(bundle).items():
        path = bundle / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            with atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def configurations(bundle: PathLike) -> dict[str, str]:
    """The shared configurations with a bundle's differences: text by path in the bundle's folder.

    ``bundle.json`` maps the name of a configuration, such as ``train``, to what differs from the shared one. A key is
    set, ``+key`` extends a list or a mapping, ``a#b`` is a key of ``a``, as in MONAI's overlays. ``"-"`` lists keys
    that are left out. A new key follows the one before it. ``"base"`` names differences that several bundles share,
    such as ``contrasts`` in the folder ``train``, which are laid over the shared one first; it may name a base itself.

    Raises:
        FileNotFoundError: if the folder has no ``bundle.json``.
        ValueError: if ``bundle.json`` is not JSON, or has a configuration or a key that cannot be merged.
    """
    source = Path(bundle) / SOURCE
    texts = {_LOGGING: (_SHARED / "logging.conf").read_text(encoding="utf-8")}
    for kind, changes in read_json(source).items():
        root = _shared(_SHARED, kind, f"{source}: no shared configuration")
        layers = _layers(source, kind, changes)
        try:
            merged = functools.reduce(merge, layers, root)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{source}: {kind} cannot be laid over the shared configuration ({error!r})") from error
        texts[f"configs/{kind}.json"] = format_json(merged) + "\n"
    return texts


def _layers(source: Path, kind: str, changes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Differences without their base, behind those of the base and of the bases below it."""
    differences = dict(changes)
    base = differences.pop(_BASE, None)
    if base is None:
        return [differences]
    below = _shared(_SHARED / kind, base, f"{source}: {kind}: no base")
    return [*_layers(source, kind, below), differences]


def _shared(folder: Path, name: str, refusal: str) -> dict[str, Any]:
    """The content of a file in a folder of shared configurations; ``ValueError`` with the refusal if there is none."""
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise ValueError(f"{refusal} {name!r}; expected {known}")
    shared: dict[str, Any] = read_json(folder / f"{name}.json")
    return shared


def merge(shared: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, or an overlay with keys such as ``a#b``, with differences as ``configurations`` describes them.

    Raises:
        KeyError: if a key that is to be left out is not there.
        TypeError: if a key lies in something that is not a mapping.
        ValueError: if ``+key`` is neither a list nor a mapping.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(shared))
    previous: dict[int, str] = {}  # of each mapping, the key that was changed last
    for key, value in changes.items():
        if key == _REMOVED:
            for name in value:
                holder, name = _place(merged, name, {})
                del holder[name]
            continue
        before = dict(previous)
        holder, name = _place(merged, key.removeprefix("+"), previous)
        is_new = name not in holder
        merge_kv(holder, key[: key.startswith("+")] + name, value)
        if is_new and id(holder) in before:
            for other in list(holder)[list(holder).index(before[id(holder)]) + 1 : -1]:
                holder[other] = holder.pop(other)  # to the end, behind ``name``, which is the last
    return merged


def _place(config: dict[str, Any], key: str, path: dict[int, str]) -> tuple[dict[str, Any], str]:
    """The mapping that holds a nested key, and the key's name in it; ``path`` takes the name at each level."""
    if not isinstance(config, dict):
        raise TypeError(f"{key} lies in {config!r}, not in a mapping")
    parts = key.split("#")
    for count in range(len(parts), 0, -1):
        name, rest = "#".join(parts[:count]), "#".join(parts[count:])
        if name in config:
            path[id(config)] = name
            return _place(config[name], rest, path) if rest else (config, name)
    path[id(config)] = key
    return config, key


def format_json(value: Any, indent: str = "", used: int = 0) -> str:
    """JSON with each list and mapping on one line where it fits, else with an entry a line; words of a list are filled.

    Args:
        value: content.
        indent: of the line on which it begins.
        used: characters of that line that are taken, the comma after it too.
    """
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or (indent and len(line) + used <= _LINE):
        return line
    inner = indent + _INDENT
    if isinstance(value, list):
        entries = [format_json(entry, inner, len(inner) + 1) for entry in value]
        if all(isinstance(entry, str) for entry in value):
            entries = _filled(entries, _LINE - len(inner) - 1)
    else:
        starts = {key: f"{json.dumps(key, ensure_ascii=False)}: " for key in value}
        entries = [
            starts[key] + format_json(entry, inner, len(inner) + len(starts[key]) + 1) for key, entry in value.items()
        ]
    begin, end = "[]" if isinstance(value, list) else "{}"
    return f"{begin}\n{inner}" + f",\n{inner}".join(entries) + f"\n{indent}{end}"


def _filled(words: list[str], width: int) -> list[str]:
    """Words joined to lines of at most ``width`` characters, longer words alone."""
    lines = words[:1]
    for word in words[1:]:
        if len(lines[-1]) + 2 + len(word) <= width:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return lines
