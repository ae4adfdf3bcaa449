# SPDX-License-Identifier: Apache-2.0
"""Files that are there when they are read, and whole when they are written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def read_json(path: PathLike, name: str | None = None, kind: type | tuple[type, ...] = dict) -> Any:
    """Read a JSON file.

    Args:
        path: file, UTF-8.
        name: what messages call the file. Default: its path.
        kind: type that the content must have: ``dict`` or ``list``.

    Returns:
        The content.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not JSON, or its content is of another type.
    """
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
        OSError: if the operating system refuses to write, for example on a full disk; it names ``path``.
    """
    path = in_existing_folder(path)
    # Of a long name the end alone: with what stands before it, a name may have 255 bytes.
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}-{path.name[-60:]}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _naming(path, temporary, error) from error
    except RuntimeError as error:  # PyTorch and ITK do not pass on what the operating system said
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        raise OSError(errno.EIO, f"cannot be written ({reason})", str(path)) from error
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
        OSError: if the operating system refuses to write, for example on a full disk; it names a file in ``path``.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path}: is there already; remove it or choose another place")
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
    """The error with the name that a user knows: a write that fails names no file, or the temporary one."""
    if error.errno is None:
        return error
    written = error.filename2 or error.filename  # of a copy that fails the second one
    name = str(path) if written is None else os.fsdecode(written).replace(str(temporary), str(path))
    return OSError(error.errno, error.strerror, name)


def keep_inputs(output: PathLike, inputs: Iterable[PathLike | None]) -> None:
    """Refuse to write over what is read; an input that is None is not given.

    Raises:
        ValueError: ``output`` is one of the inputs.
    """
    if any(path is not None and Path(path).resolve() == Path(output).resolve() for path in inputs):
        raise ValueError(f"{output}: is an input and would be overwritten; choose another place for the result")
