# SPDX-License-Identifier: Apache-2.0
"""NIfTI images: voxels, and the header form that positions them in the world.

A header has two forms, sform and qform, and voxel sizes (pixdim), which may contradict each other. nibabel always uses
the sform. ITK takes directions from one of the forms and spacings from pixdim, and refuses shear.
"""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from regplugins.io.files import PathLike
from regplugins.io.reading import check_real_voxels, orthogonal_grid, reading, spatial_shape
from regplugins.spatial.grid import Grid, in_plane

# Largest distance of corner voxels between header forms that agree, as a fraction of a voxel.
_TOLERANCE = 0.1
# Codes of units other than mm: name, and its length in mm.
_UNITS = {1: ("meters", 1e3), 3: ("micrometers", 1e-3)}


def is_nifti(path: PathLike) -> bool:
    """Tell by its suffix whether a file is NIfTI."""
    return os.fspath(path).lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path) -> tuple[np.ndarray, Grid, list[str]]:
    """Read an image as array ``(*spatial)``, its grid, and warnings about its position, scaling and trailing data."""
    grid, warnings = read_nifti_grid(path)
    with reading(path):
        image = nib.load(path)
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                array = np.asanyarray(type(image).from_stream(file).dataobj)
                size = file.seek(0, os.SEEK_END)  # the checksum comes after the voxels
        else:
            array = np.asanyarray(image.dataobj)
            size = path.stat().st_size
        proxy: Any = image.dataobj
        rest = size - proxy.offset - proxy.dtype.itemsize * math.prod(proxy.shape)
    if proxy.offset < type(image.header).single_vox_offset:
        raise ValueError(f"{path}: its voxels begin at byte {proxy.offset}, within the header; correct vox_offset")
    if rest > 0:
        declared = " x ".join(map(str, proxy.shape))
        warnings.append(
            f"{path}: {rest} bytes after the {declared} voxels of its header are not read; correct the header if "
            "slices are missing"
        )
    return array.reshape(grid.shape), grid, warnings


def read_nifti_grid(path: Path) -> tuple[Grid, list[str]]:
    """Grid of an image and warnings, from the header alone; see ``read_nifti``."""
    with reading(path):
        header = nib.load(path).header
        with ImageOpener(path) as file:
            # nibabel corrects the header; the stored voxel sizes and scale are needed here.
            stored = type(header).from_fileobj(file, check=False)
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
    check_real_voxels(path, dtype)
    pixdim = torch.from_numpy(stored["pixdim"].astype(np.float64))
    grid, warnings = _choose_grid(path, spatial_shape(path, shape), header, pixdim[1 : len(shape) + 1])
    if not np.isfinite(stored["scl_slope"]):
        warnings.append(f"{path}: its scl_slope is {stored['scl_slope']}, its values are read without scaling")
    return grid, warnings


def _choose_grid(path: Path, shape: tuple[int, ...], header: Any, pixdim: torch.Tensor) -> tuple[Grid, list[str]]:
    """Grid of the most credible header form, and a warning if the forms contradict each other."""
    sizes = pixdim[: len(shape)]
    grids, faults = _forms(shape, header, sizes)
    if not grids and (faults or not _positive(sizes)):
        faults += [] if _positive(sizes) else [f"its voxel sizes (pixdim) are {_numbers(sizes)}"]
        raise ValueError(f"{path}: {'; '.join(faults)}; correct its header, or resample it")
    sform, qform = grids.get("sform"), grids.get("qform")
    grid, taken = (sform, "by its sform") if sform is not None else (qform, "by its qform")
    if grid is None:
        faults = ["neither its sform nor its qform is set, ITK may place it elsewhere"]
        grid, taken = _grid(shape, header.get_base_affine()), "as nibabel does (axes to left, anterior, superior)"
    elif sform is not None and not _same_sizes(sform, sizes):
        faults.append(f"its sform has voxels of {_numbers(sform.spacing)} and its pixdim says {_numbers(sizes)}")
        grid, taken = (sform, taken) if qform is None else (qform, "by its qform")
    elif sform is not None and qform is not None and not sform.matches(qform, _TOLERANCE):
        faults.append(f"its sform and its qform are up to {_distance(sform, qform):.3g} mm apart")
    unit, factor = _UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))
    if factor != 1:
        faults.append(f"its unit is the {unit}, converted to mm")
        scale = torch.tensor([factor] * grid.ndim + [1.0], dtype=torch.float64)
        grid = Grid(shape, scale[:, None] * grid.affine)
    return grid, [f"{path}: {'; '.join(faults)}; placed {taken}"] if faults else []


def _forms(shape: tuple[int, ...], header: Any, sizes: torch.Tensor) -> tuple[dict[str, Grid], list[str]]:
    """Grids of the forms that are set and usable, and the faults of the others that are set."""
    grids: dict[str, Grid] = {}
    faults: list[str] = []
    for form in ("sform", "qform"):
        if int(header[f"{form}_code"]) <= 0 or (form == "qform" and not _positive(sizes)):
            continue  # the qform takes its spacing from the voxel sizes
        try:
            grids[form] = _grid(shape, getattr(header, f"get_{form}")())
        except (HeaderDataError, ValueError) as error:
            faults.append(f"its {form} {error}")
    return grids, faults


def _grid(shape: tuple[int, ...], affine: np.ndarray) -> Grid:
    return orthogonal_grid(shape, in_plane(torch.from_numpy(affine.astype(np.float64)), len(shape)))


def _positive(sizes: torch.Tensor) -> bool:
    return bool((sizes.isfinite() & (sizes > 0)).all())


def _same_sizes(grid: Grid, sizes: torch.Tensor) -> bool:
    """Tell whether other voxel sizes would give the same positions at the far end of the image."""
    return bool(((grid.spacing - sizes).abs() * torch.tensor(grid.shape) <= _TOLERANCE * grid.spacing).all())


def _distance(a: Grid, b: Grid) -> float:
    """Largest distance between corresponding corner voxels, mm."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, size - 1.0], dtype=torch.float64) for size in a.shape])
    return float((a.index_to_world(corners) - b.index_to_world(corners)).norm(dim=-1).max())


def _numbers(values: torch.Tensor) -> str:
    return " x ".join(f"{value:.4g}" for value in values.tolist())
