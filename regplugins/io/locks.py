# SPDX-License-Identifier: Apache-2.0
"""Locks of output folders, so that two runs do not write into the same one."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no such locks: two runs may write into one folder
    fcntl = None

_NAME = ".lock"
# A release holds a shared lock exclusively for a moment, s.
_PAUSE = 0.1


class FolderLock:
    """Lock of a folder, which the operating system releases when the process dies.

    The folder is made if it does not exist, and removed on release if it is empty.

    Args:
        folder: folder to lock.
        purpose: holders that share the lock must have the same purpose.
    """

    def __init__(self, folder: Path, purpose: str = "") -> None:
        self._path = folder / _NAME
        self._purpose = purpose.encode()
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        self._descriptor: int | None = None

    def acquire(self, shared: bool = False, retries: int = 0) -> bool:
        """Acquire the lock, exclusively or shared, and tell whether it is held."""
        for attempt in range(retries + 1):
            if attempt:
                time.sleep(_PAUSE)
            if self._try(shared):
                return True
        return False

    def share(self) -> None:
        """Downgrade an exclusive lock to a shared one."""
        if self._descriptor is not None:
            _lock(self._descriptor, shared=True)

    def release(self) -> None:
        """Release the lock if it is held."""
        if self._descriptor is None:
            return
        if _lock(self._descriptor, shared=False):  # no other process shares it
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # not empty
                return

    def _try(self, shared: bool) -> bool:
        descriptor = _acquire(self._path, shared=False)
        if descriptor is not None:  # the only holder sets the purpose
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, self._purpose, 0)
            if shared:
                _lock(descriptor, shared=True)
        elif shared:
            descriptor = _acquire(self._path, shared=True)
        if descriptor is None:
            return False
        if os.pread(descriptor, len(self._purpose) + 1, 0) != self._purpose:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True


@contextmanager
def folder_lock(folder: Path, shared: bool = False, purpose: str = "") -> Iterator[bool]:
    """Hold a folder for the duration of the block, see ``FolderLock``. Yields whether it is held."""
    lock = FolderLock(folder, purpose)
    try:
        yield lock.acquire(shared)
    finally:
        lock.release()


def _acquire(path: Path, shared: bool) -> int | None:
    """Descriptor that holds the lock, or None if another process holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has just removed the empty folder
            if path.parent.is_dir():
                raise
            continue
        if not _lock(descriptor, shared):
            os.close(descriptor)
            return None
        # The previous holder may have removed the file in between, which makes this lock void.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int, shared: bool) -> bool:
    """Lock a file, or change its lock; False if another process prevents it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems do not support locks; runs are allowed there.
        return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
    return True
