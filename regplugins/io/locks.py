# SPDX-License-Identifier: Apache-2.0
"""Locks of output folders, so that no two runs write into one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no such locks: there two runs are not kept apart.
    fcntl = None

_NAME = ".lock"


@contextmanager
def folder_lock(folder: Path, shared: bool = False) -> Iterator[bool]:
    """Hold a folder for the time of the block; the operating system lets go of it when the process dies.

    The folder is made if need be, and removed again at the end if nothing was written into it.

    Args:
        folder: the folder.
        shared: hold it together with others that hold it shared, instead of alone.

    Yields:
        Whether it is held; False: another run holds it.

    Raises:
        NotADirectoryError: if the folder is a file.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = _acquire(folder / _NAME, shared)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _release(folder / _NAME, descriptor, shared)
            _remove_empty(made)


def _acquire(path: Path, shared: bool) -> int | None:
    """A descriptor that holds the lock, or None if another one does."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has just removed the folder, which it left empty
            continue
        if not _lock(descriptor, shared):
            os.close(descriptor)
            return None
        # Whoever held the file before may have removed it in between: then a lock of it keeps nobody out.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)


def _release(path: Path, descriptor: int, shared: bool) -> None:
    if not shared or _lock(descriptor, shared=False):  # the last of those that share it
        path.unlink(missing_ok=True)
    os.close(descriptor)


def _lock(descriptor: int, shared: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems know no locks: a run there is worth more than its lock.
        return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
    return True


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # not empty
            return
