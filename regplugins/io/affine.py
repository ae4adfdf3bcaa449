# SPDX-License-Identifier: Apache-2.0
"""Affine transforms in ITK's MATLAB 4 (``.mat``) and text files (``.tfm``, ``.txt``), LPS mm.

The kinds that ANTs writes are read here, since ITK's Python takes several seconds to load its transforms; ITK reads the
others. Parameters are the matrix ``A``, row by row, and the translation ``t``; fixed parameters are the center ``c``:
``p -> A (p - c) + c + t``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat, savemat

from regplugins.io.composite import read_with_itk
from regplugins.io.files import PathLike, atomic, existing
from regplugins.io.itk_bridge import flip_matrix
from regplugins.spatial.transforms import AffineTransform, SpatialTransform

_KIND = re.compile(r"(?:AffineTransform|MatrixOffsetTransformBase)_(?:double|float)_([23])_\1")


def read_affine(path: PathLike) -> SpatialTransform:
    """Read a transform file (``.mat``, ``.tfm`` or ``.txt``) of ITK, ANTs or Slicer.

    Linear transforms of every kind (translation, rigid, similarity, affine) become an ``AffineTransform``.
    """
    path = existing(path)
    try:
        kind, parameters, center = _read_mat(path) if path.suffix == ".mat" else _read_text(path)
        if not (np.isfinite(parameters).all() and np.isfinite(center).all()):  # ITK crashes on some of them
            raise ValueError("its parameters are NaN or infinite")
        known = _KIND.fullmatch(kind)
        if known:
            n = int(known[1])
            if (parameters.size, center.size) != (n * n + n, n):
                raise ValueError(f"{kind} with {parameters.size} parameters and {center.size} fixed parameters")
            matrix = np.eye(n + 1)
            matrix[:n, :n] = parameters[: n * n].reshape(n, n)
            matrix[:n, n] = parameters[n * n :] + center - matrix[:n, :n] @ center
            if not np.isfinite(np.linalg.cond(matrix)):
                raise ValueError("a matrix that has no inverse")
            return AffineTransform(flip_matrix(torch.from_numpy(matrix)))
    except Exception as error:  # SciPy raises errors of any type
        raise ValueError(f"{path}: damaged, or not an ITK transform ({error})") from error
    return read_with_itk(path)


def write_affine(transform: SpatialTransform, path: PathLike) -> None:
    """Write an affine transform (``ValueError`` for others) with center 0, in float64; suffixes as ``read_affine``."""
    if not isinstance(transform, AffineTransform):
        raise ValueError(f"{path}: such a file holds an affine transform, got {type(transform).__name__}")
    n = transform.ndim
    matrix = flip_matrix(transform.matrix.detach().cpu()).numpy()
    parameters = np.concatenate([matrix[:n, :n].ravel(), matrix[:n, n]])
    kind = f"AffineTransform_double_{n}_{n}"
    with atomic(path) as temporary:
        if temporary.suffix == ".mat":
            savemat(temporary, {kind: parameters, "fixed": np.zeros(n)}, format="4", oned_as="column")
        else:
            temporary.write_text(
                "#Insight Transform File V1.0\n#Transform 0\n"
                f"Transform: {kind}\n"
                f"Parameters: {' '.join(map(repr, parameters.tolist()))}\n"
                f"FixedParameters: {' '.join(['0'] * n)}\n"
            )


def _read_mat(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """Kind, parameters and fixed parameters. SciPy refuses a truncated file; ITK fills it with zeros."""
    variables = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    fixed = variables.pop("fixed", None)
    if fixed is None or len(variables) != 1:
        raise ValueError(f"expected one transform and its fixed parameters, found {list(variables) or 'none'}")
    ((kind, parameters),) = variables.items()
    return kind, parameters.ravel().astype(np.float64), fixed.ravel().astype(np.float64)


def _read_text(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """Kind, parameters and fixed parameters of the first transform. ITK reads a truncated file as the identity."""
    lines = re.findall(r"^(Transform|Parameters|FixedParameters):(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    kinds = [value.strip() for name, value in lines if name == "Transform"]
    complete = sum(not kind.startswith("CompositeTransform") for kind in kinds)
    parameters, fixed = ([value for name, value in lines if name == key] for key in ("Parameters", "FixedParameters"))
    if not kinds or not len(parameters) == len(fixed) == complete:
        lists = f"{len(parameters)} lists of parameters, {len(fixed)} of fixed parameters"
        raise ValueError(f"{len(kinds)} transforms, {lists}")
    if complete == 0:
        raise ValueError("an empty composite")
    # ITK writes several transforms into one file without calling them a composite.
    kind = kinds[0] if len(kinds) == 1 else "CompositeTransform"
    if len(kinds) > 1:  # ITK reads it; here only finite numbers are checked
        parameters, fixed = [" ".join(parameters)], [" ".join(fixed)]
    return kind, np.array(parameters[0].split(), dtype=np.float64), np.array(fixed[0].split(), dtype=np.float64)
