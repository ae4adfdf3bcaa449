# SPDX-License-Identifier: Apache-2.0
"""Locks of output folders, so that no two runs write into one."""

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
except ImportError:  # Windows has no such locks: there two runs are not kept apart.
    fcntl = None

_NAME = ".lock"
# Whoever releases a shared lock holds it alone for a moment.
_PAUSE = 0.1


class FolderLock:
    """Lock of a folder, which the operating system releases when the process dies.

    The folder is made if need be, and removed again at the end if nothing was written into it.

    Args:
        folder: the folder.
        purpose: holders that share it have the same one.
    """

    def __init__(self, folder: Path, purpose: str = "") -> None:
        self._path = folder / _NAME
        self._purpose = purpose.encode()
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        self._descriptor: int | None = None

    def acquire(self, shared: bool = False, retries: int = 0) -> bool:
        """Hold the folder, alone or together with others that share it.

        Returns:
            Whether it is held; False: another one holds it, or shares it for another purpose.
        """
        for attempt in range(retries + 1):
            if attempt:
                time.sleep(_PAUSE)
            if self._try(shared):
                return True
        return False

    def share(self) -> None:
        """Let others share a folder that is held alone."""
        if self._descriptor is not None:
            _lock(self._descriptor, shared=True)

    def release(self) -> None:
        """Let go of the folder, if it is held."""
        if self._descriptor is None:
            return
        if _lock(self._descriptor, shared=False):  # else others share it
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
        if descriptor is not None:  # there is no other holder whose purpose counts
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
    """Hold a folder for the time of the block, see ``FolderLock``.

    Yields:
        Whether it is held; False: another one holds it.
    """
    lock = FolderLock(folder, purpose)
    try:
        yield lock.acquire(shared)
    finally:
        lock.release()


def _acquire(path: Path, shared: bool) -> int | None:
    """A descriptor that holds the lock, or None if another one does."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has just removed the folder, which it left empty
            if path.parent.is_dir():
                raise
            continue
        if not _lock(descriptor, shared):
            os.close(descriptor)
            return None
        # Whoever held the file before may have removed it in between: then a lock of it keeps nobody out.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int, shared: bool) -> bool:
    """Lock a file, or change its lock, if no other holder keeps it from that."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems know no locks: a run there is worth more than its lock.
        return error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
    return True
