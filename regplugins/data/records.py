# SPDX-License-Identifier: Apache-2.0
"""Records of the files of pairs and images, from options, datalists and samples."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regplugins.io import read_json

PATH_KEYS = (
    "fixed",
    "moving",
    "fixed_label",
    "moving_label",
    "fixed_landmarks",
    "moving_landmarks",
    "fixed_mask",
    "moving_mask",
    "truth",
)
RECORD_KEYS = (*PATH_KEYS, "name")
# Output files of a registered pair.
OUTPUTS = (
    "warped.nii.gz",
    "warped.png",
    "warped.tif",
    "warped_label.nii.gz",
    "transform_0GenericAffine.mat",
    "transform_1Warp.nii.gz",
    "transform_1InverseWarp.nii.gz",
    "warped_landmarks.csv",
    "synthesized_moving.nii.gz",
    "synthesized_fixed.nii.gz",
    "report.png",
    "report.json",
)
# Files of an output folder; no pair's folder may have such a name. File systems may ignore case.
_OTHERS = ("backward", "failed.json", "summary.csv", "summary.json", "metrics.csv", "report.html")
_RESERVED = {name.lower() for name in (*OUTPUTS, *_OTHERS)}
# Bytes of a file name on common file systems.
_MAX_NAME_BYTES = 255


def result_files(folder: Path) -> list[Path]:
    """Paths of all results of a pair, in the order of writing, the report of the pair last."""
    return [*direction_files(folder / "backward"), *direction_files(folder)]


def direction_files(folder: Path) -> list[Path]:
    """Paths of the results of one direction of a pair, in the order of writing, the report last."""
    return [folder / name for name in OUTPUTS]


def remove_results(files: Sequence[Path]) -> None:
    """Remove files, the last first: without its report the results of a pair are not taken for whole."""
    for path in reversed(files):
        path.unlink(missing_ok=True)


def pair_records(pair: Mapping[str, Any], datalist: str | Path | None, sample: str | Path) -> list[dict[str, str]]:
    """Records of the pairs to register: of ``datalist``, else of ``pair``, else of ``sample``.

    Args:
        pair: a path or None for each of ``PATH_KEYS``.
        datalist: JSON file, a list of records with those keys and, optionally, a ``name``.
        sample: folder with ``fixed.nii.gz``, ``moving.nii.gz`` and, optionally, files named after the other keys.

    Returns:
        Records without missing keys. Those of a datalist have a ``name``, the folder of their outputs, by default the
        index; a single pair has none.

    Raises:
        FileNotFoundError: if a file of a single pair does not exist. (In a datalist only that pair fails.)
        ValueError: if an image is missing, a key is unknown, or a name is repeated or not a plain folder name.
    """
    given = {key: str(value) for key, value in pair.items() if value is not None}
    if datalist is not None:
        if given:
            raise ValueError(f"give either datalist or {sorted(given)}, not both")
        records = _named(read_datalist(datalist), source=str(datalist))
    elif given:
        records = [given]
    else:
        files = {file.name.removesuffix(".nii.gz").removesuffix(".csv"): str(file) for file in Path(sample).glob("*.*")}
        records = [{key: files[key] for key in PATH_KEYS if key in files}]
    for record in records:
        _check(record)
        if datalist is None:
            _check_files(record)
    return records


def swapped_key(key: str) -> str:
    """Key with "fixed" and "moving" swapped: ``moving_label`` for ``fixed_label``; other keys stay unchanged."""
    for one, other in (("fixed", "moving"), ("moving", "fixed")):
        if key == one or key.startswith(f"{one}_"):
            return other + key.removeprefix(one)
    return key


def image_records(image: str | None, datalist: str | Path | None, sample: str | Path) -> list[dict[str, str]]:
    """Records of single images: of ``datalist``, else of ``image``, else of ``sample``.

    Args:
        image: path, or None.
        datalist: JSON file, a list of records with ``image`` and, optionally, ``name``.
        sample: folder with ``*.nii.gz``.

    Returns:
        Records with ``image`` and ``name``, by default the file's.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if both ``image`` and ``datalist`` are given, or a record has no ``image``.
    """
    if image is not None and datalist is not None:
        raise ValueError("give either image or datalist, not both")
    if datalist is not None:
        records = read_datalist(datalist)
    else:
        paths = [image] if image is not None else sorted(Path(sample).glob("*.nii.gz"))
        records = [{"image": str(path)} for path in paths]
    for number, record in enumerate(records):
        if record.get("image") is None:
            raise ValueError(f"{datalist}: record {number} has no image")
        if not Path(record["image"]).exists():
            raise FileNotFoundError(f"image {record['image']}: no such file")
    return [{"name": Path(record["image"]).name, **record} for record in records]


def shown_file(record: Mapping[str, Any]) -> str:
    """File that a record of training shows: its image, or its label map if it has none."""
    return str(record.get("image") or record.get("label_map"))


def read_datalist(path: str | Path, section: str | None = None) -> list[dict[str, Any]]:
    """Read a list of records from a JSON file.

    Args:
        path: JSON file: a list, or a mapping of section names to lists (MONAI's and the Decathlon's ``dataset.json``).
            Relative paths in it are relative to its folder.
        section: name of the list, if the file is a mapping.

    Returns:
        The records, with absolute paths.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not JSON, not a non-empty list of mappings, or a path is not a string.
    """
    path = Path(path)
    content = read_json(path, kind=(dict, list))
    if section is not None:
        if not isinstance(content, dict) or section not in content:
            raise ValueError(f"{path}: no section '{section}'")
        content = content[section]
    if not isinstance(content, list) or not content or not all(isinstance(record, dict) for record in content):
        raise ValueError(f"{path}: expected a non-empty list of records")
    folder = path.absolute().parent
    paths = {*PATH_KEYS, "image", "label", "label_map"}
    for number, record in enumerate(content):
        for key in paths & record.keys():
            if not isinstance(record[key], str | None):
                raise ValueError(f"{path}: record {number}: {key} must be a path, got {record[key]!r}")
    return [
        {k: str(folder / v) if k in paths and v is not None else v for k, v in record.items()} for record in content
    ]


def ordered_pairs(records: Sequence[Mapping[str, str]], count: int, seed: int = 0) -> list[dict[str, str]]:
    """Draw distinct random ordered pairs of different images, for evaluation.

    Args:
        records: images, each with ``image`` and, optionally, ``label``.
        count: number of pairs.
        seed: of the draw.

    Returns:
        Pair records named ``<fixed>_<moving>`` after the image files.

    Raises:
        ValueError: if there are fewer than ``count`` ordered pairs.
    """
    n = len(records)
    if count > n * (n - 1):
        raise ValueError(f"{n} images make {n * (n - 1)} ordered pairs, asked for {count}")
    pairs, names = [], _names([record["image"] for record in records])
    for draw in np.random.default_rng(seed).choice(n * (n - 1), size=count, replace=False):
        fixed, moving = divmod(int(draw), n - 1)
        moving += moving >= fixed
        pair = {"name": f"{names[fixed]}_{names[moving]}"}
        for side, record in (("fixed", records[fixed]), ("moving", records[moving])):
            pair[side] = record["image"]
            if "label" in record:
                pair[f"{side}_label"] = record["label"]
        pairs.append(pair)
    return pairs


def _names(paths: Sequence[str]) -> list[str]:
    """Names of images by their files, with their folders where files are called alike."""
    names = [re.sub(r"(\.nii)?\.[A-Za-z]\w*$", "", Path(path).name) for path in paths]
    if len(set(names)) == len(names):
        return names
    folders = [Path(path).parent for path in paths]
    common = os.path.commonpath(folders)
    return ["_".join([*folder.relative_to(common).parts, name]) for folder, name in zip(folders, names, strict=True)]


def _named(records: list[dict[str, Any]], source: str) -> list[dict[str, str]]:
    named = [
        {"name": str(k), **{key: v for key, v in record.items() if v is not None}} for k, record in enumerate(records)
    ]
    for record in named:
        record["name"] = str(record["name"])
    names = [record["name"] for record in named]
    folders = Counter(name.casefold() for name in names)  # some file systems ignore case
    for name in names:
        if folders[name.casefold()] > 1:
            raise ValueError(f"{source}: the name '{name}' is given twice, or differs from another in case alone")
        if name in ("", ".", "..") or Path(name).name != name or not name.isprintable():
            raise ValueError(f"{source}: the name {name!r} is no plain folder name")
        if name.startswith("."):
            raise ValueError(f"{source}: the name '{name}' begins with a dot, as temporary files do; choose another")
        if len(name.encode()) > _MAX_NAME_BYTES:
            raise ValueError(f"{source}: the name '{name[:30]}...' is longer than {_MAX_NAME_BYTES} bytes")
        if name.lower() in _RESERVED:
            raise ValueError(f"{source}: the name '{name}' is that of a file of results; choose another")
    return named


def _check(record: Mapping[str, str]) -> None:
    where = f"pair '{record['name']}': " if "name" in record else ""
    unknown = set(record) - set(RECORD_KEYS)
    if unknown:
        raise ValueError(f"{where}unknown keys {sorted(unknown)}, expected some of {RECORD_KEYS}")
    for key in ("fixed", "moving"):
        if key not in record:
            raise ValueError(f"{where}no {key} image given")


def _check_files(record: Mapping[str, str]) -> None:
    for key in PATH_KEYS:
        if key in record and not Path(record[key]).exists():
            raise FileNotFoundError(f"{key} {record[key]}: no such file")
