# SPDX-License-Identifier: Apache-2.0
"""Checked input files, output files that are written completely or not at all, and strict JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]

_CHUNK = 1 << 20
# Suffixes of files that hold the header of an image, and its voxels or the names of their files.
_HEADERS = (".mha", ".mhd", ".nhdr", ".nrrd")
# Header and voxels of Analyze.
_PAIR = re.compile(r"(.+)\.(?:hdr|img)(?:\.gz)?", re.IGNORECASE)
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}-.+")


def existing(path: PathLike) -> Path:
    """Check the path of a file to read; ``FileNotFoundError`` if there is none, ``ValueError`` if it is empty."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    return path


def read_json(path: PathLike, name: str | None = None, kind: type | tuple[type, ...] = dict) -> Any:
    """Read a JSON file in UTF-8 whose content is of type ``kind``, ``dict`` or ``list``; messages call it ``name``."""
    name = name or str(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{name}: not JSON that can be read (nested too deeply)") from error
    except ValueError as error:
        raise ValueError(f"{name}: not JSON ({error})") from error
    if not isinstance(content, kind):
        raise ValueError(f"{name}: expected a JSON object, got a {type(content).__name__}")
    return content


def output_folder(path: PathLike) -> Path:
    """Check the path of an output folder, which need not exist; ``NotADirectoryError`` if it is a file."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; a folder for the results is expected")
    return path


def sha256(path: PathLike) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; of a folder, that of its files' sorted names and hashes.

    Of the header of an image, that of the header and of the files with its voxels.
    """
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
        return digest.hexdigest()
    for file in [path, *_voxel_files(path)]:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _voxel_files(path: Path) -> list[Path]:
    """Files with the voxels of a header of Analyze (or the header of its voxels), MetaImage or NRRD, if not its own."""
    if pair := _PAIR.fullmatch(path.name):
        others = ((file, _PAIR.fullmatch(file.name)) for file in sorted(path.parent.iterdir()) if file != path)
        return [file for file, other in others if other and other[1] == pair[1]]
    suffix = path.suffix.lower()
    if suffix not in _HEADERS:
        return []
    names: list[str] = []
    with path.open(encoding="latin-1") as lines:
        for line in lines:
            key, _, value = re.sub(":=?", "=", line, count=1).partition("=")
            if key.strip().lower() in ("elementdatafile", "data file", "datafile"):
                first, *numbers = value.split() or [""]
                if first.startswith("LIST"):
                    names = [line.strip() for line in lines]
                elif "%" in first and len(numbers) >= 3:  # a pattern, the first and the last number, and the step
                    start, stop, step = map(int, numbers[:3])
                    names = [first % k for k in range(start, stop + (1 if step > 0 else -1), step or 1)]
                else:
                    names = [value.strip()]
                break
            if suffix in (".nrrd", ".nhdr") and not line.strip():
                break
    return [path.parent / name for name in names if name and (path.parent / name).is_file()]


def in_existing_folder(path: PathLike) -> Path:
    """Check the path of a file to write; ``FileNotFoundError`` if its folder does not exist."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist")
    return path


@contextmanager
def atomic(path: PathLike) -> Iterator[Path]:
    """Write a file completely or not at all.

    Yields a temporary path in the same folder with the same suffix. It replaces ``path`` when the block succeeds, and
    is removed when it raises.

    Raises:
        OSError: if the operating system refuses to write, for example on a full disk; it names ``path``.
    """
    path = in_existing_folder(path)
    # Names may have 255 bytes, so that only the end of a long one is kept.
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name[-60:]}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _naming(path, temporary, error) from error
    except RuntimeError as error:  # PyTorch and ITK hide the error of the operating system
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        raise OSError(errno.EIO, f"cannot be written ({reason})", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder, in which no other process writes."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()


@contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """Make a folder completely or not at all.

    Yields an empty folder beside ``path`` with the same name, which is moved to ``path`` when the block succeeds.

    Raises:
        FileExistsError: if ``path`` exists.
        OSError: if the operating system refuses to write, for example on a full disk; it names a file in ``path``.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path}: exists; remove it or choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
        temporary = Path(folder) / path.name
        temporary.mkdir()
        try:
            yield temporary
            temporary.rename(path)
        except OSError as error:
            raise _naming(path, temporary, error) from error


def _naming(path: Path, temporary: Path, error: OSError) -> OSError:
    """Error that names ``path`` instead of the temporary one."""
    if error.errno is None:
        return error
    written = error.filename2 or error.filename  # a copy names its source first
    name = str(path) if written is None else os.fsdecode(written).replace(str(temporary), str(path))
    return OSError(error.errno, error.strerror, name)


def refuse_overwriting_inputs(outputs: Iterable[PathLike], inputs: Iterable[PathLike | None]) -> None:
    """Raise ``ValueError`` if an output is an input, or lies in a folder that is one; inputs that are None are skipped.

    A folder of slices must keep its content: its hash, by which ``resume`` recognizes it, is that of all its files.
    """
    given = {Path(path).resolve() for path in inputs if path is not None}
    for output in outputs:
        path = Path(output).resolve()
        if path in given:
            raise ValueError(f"{output}: is an input and would be overwritten; choose another path for the result")
        if folder := next((parent for parent in path.parents if parent in given), None):
            raise ValueError(f"{output}: lies in the input {folder}; choose another path for the result")


def json_text(content: Mapping[str, Any]) -> str:
    """Format a nested mapping as strict JSON, where NaN and infinity become null, such as a missing distance."""
    return json.dumps(none_for_nan(content), indent=2, ensure_ascii=False, allow_nan=False)


def none_for_nan(value: Any) -> Any:
    """Replace NaN and infinity by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: none_for_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [none_for_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
