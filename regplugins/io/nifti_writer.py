# SPDX-License-Identifier: Apache-2.0
"""Multi-threaded writing of NIfTI files."""

from __future__ import annotations

import io
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from regplugins.io.files import PathLike, atomic
from regplugins.spatial.grid import Grid

# Independent of the number of threads, since the pieces determine the compressed bytes.
_PIECE_BYTES = 2**20
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # no name and no date: the same image gives the same file
_EMPTY_LAST_BLOCK = b"\x03\x00"


def write_nifti(
    components: Iterable[np.ndarray], header: nib.Nifti1Header, grid: Grid, path: PathLike, world: int
) -> None:
    """Write arrays one after the other into one NIfTI file, completely or not at all.

    The file is one deflate stream of independently compressed pieces, as pigz writes it. Its bytes do not depend on the
    number of threads. Memory beyond the arrays is some megabytes per thread.

    Args:
        components: real arrays of shape ``grid.shape``; cast to the header's type piece by piece.
        header: shape, type, units and intent; sform and qform are set to ``grid``.
        grid: grid of the voxels.
        path: ends in ``.nii`` or ``.nii.gz``.
        world: sform code: 1 for the scanner's world, 2 for one to which the image is aligned.
    """
    affine = np.eye(4)
    in_plane = [*range(grid.ndim), 3]
    affine[np.ix_(in_plane, in_plane)] = grid.affine.numpy()
    header.set_sform(affine, code=world)
    header.set_qform(affine, code=1)
    dtype = header.get_data_dtype()
    # Mantissas do not repeat, so that only runs of equal bytes (background) are worth compressing.
    strategy = zlib.Z_RLE if dtype.kind == "f" else zlib.Z_DEFAULT_STRATEGY
    with atomic(path) as temporary:
        pieces = _pieces(components, header, dtype)
        if temporary.suffix == ".gz":
            _write_gzip(pieces, temporary, strategy)
        else:
            with temporary.open("wb") as file:
                file.writelines(piece() for piece in pieces)


def _pieces(
    components: Iterable[np.ndarray], header: nib.Nifti1Header, dtype: np.dtype
) -> Iterator[Callable[[], bytes]]:
    """Functions that return the file's content piece by piece, for threads to call."""
    start_of_file = io.BytesIO()
    header.write_to(start_of_file)
    yield start_of_file.getvalue
    for component in components:
        step = max(1, _PIECE_BYTES // (component[..., 0].size * dtype.itemsize))
        for start in range(0, component.shape[-1], step):
            yield partial(_fortran_bytes, component[..., start : start + step], dtype)


def _fortran_bytes(values: np.ndarray, dtype: np.dtype) -> bytes:
    return values.astype(dtype, copy=False).tobytes(order="F")


def _write_gzip(pieces: Iterable[Callable[[], bytes]], path: Path, strategy: int) -> None:
    checksum = size = 0
    with path.open("wb") as file:
        file.write(_GZIP_HEADER)
        for raw, packed in _in_order(pieces, strategy):
            file.write(packed)
            checksum = zlib.crc32(raw, checksum)
            size += len(raw)
        file.write(_EMPTY_LAST_BLOCK + struct.pack("<LL", checksum, size % 2**32))


def _in_order(pieces: Iterable[Callable[[], bytes]], strategy: int) -> Iterator[tuple[bytes, bytes]]:
    """Compress pieces in as many threads as PyTorch uses, a few of them in advance."""
    threads = torch.get_num_threads()
    waiting: deque[Future[tuple[bytes, bytes]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for piece in pieces:
            waiting.append(pool.submit(_compress, piece, strategy))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _compress(piece: Callable[[], bytes], strategy: int) -> tuple[bytes, bytes]:
    """A piece and its deflate blocks, which end on a whole byte and refer to no other piece."""
    raw = piece()
    deflate = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS, strategy=strategy)
    return raw, deflate.compress(raw) + deflate.flush(zlib.Z_SYNC_FLUSH)
