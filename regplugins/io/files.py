# SPDX-License-Identifier: Apache-2.0
"""Files that are there when they are read, and whole when they are written."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PathLike = str | os.PathLike[str]

_CHUNK = 1 << 20
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}-.+")


def existing(path: PathLike) -> Path:
    """The path of a file to read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    return path


def output_folder(path: PathLike) -> Path:
    """The path of a folder to write into, which need not be there yet.

    Raises:
        NotADirectoryError: it is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; a folder for the results is expected")
    return path


def sha256(path: PathLike) -> str:
    """SHA-256 of a file; of a folder (a DICOM series, say) that of its files' names and hashes in sorted order.

    Args:
        path: file, or folder with all below it.

    Returns:
        64 hexadecimal digits.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
    """
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def in_existing_folder(path: PathLike) -> Path:
    """The path of a file to write.

    Raises:
        FileNotFoundError: if its folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist")
    return path


@contextmanager
def atomic(path: PathLike) -> Iterator[Path]:
    """Write a file completely or not at all.

    Yields a temporary path in the same folder, its name ending as that of ``path`` does, which takes the place of
    ``path`` when the block succeeds and is removed when it raises.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    path = in_existing_folder(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what ``atomic`` has left in a folder of a process that was killed.

    Args:
        folder: one in which no other process writes.
    """
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink()


@contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """Make a folder completely or not at all.

    Yields an empty folder of the same name that lies beside ``path``, and takes its place when the block succeeds.

    Raises:
        FileExistsError: there is something of that name.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path}: is there already; remove it or choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
        temporary = Path(folder) / path.name
        temporary.mkdir()
        yield temporary
        temporary.rename(path)


def keep_inputs(output: PathLike, inputs: Iterable[PathLike | None]) -> None:
    """Refuse to write over what is read; an input that is None is not given.

    Raises:
        ValueError: ``output`` is one of the inputs.
    """
    if any(path is not None and Path(path).resolve() == Path(output).resolve() for path in inputs):
        raise ValueError(f"{output}: is an input and would be overwritten; choose another place for the result")
