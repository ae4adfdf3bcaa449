# SPDX-License-Identifier: Apache-2.0
"""The one call: register two scans."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image
import torch
from monai.data import MetaTensor
from monai.utils import get_seed, set_determinism
from nibabel.filebasedimages import FileBasedImage

from regplugins.checks import first_cause
from regplugins.data import PATH_KEYS
from regplugins.data.records import remove_results, result_files
from regplugins.engines.workflow import DataWorkflow
from regplugins.io import atomic, load_image, load_label, output_folder, read_chain, read_json, write_landmarks
from regplugins.io.files import PathLike, refuse_overwriting_inputs
from regplugins.io.images import StoredImage, read_grid, read_volume
from regplugins.io.in_memory import write_given
from regplugins.report.table import remove_pair_table
from regplugins.sharing.find import find_bundle, known_bundle
from regplugins.spatial import Grid, SpatialTransform, outside_value, overlap, resample

logger = logging.getLogger(__name__)

DEFAULT_BUNDLE = "any_modality_optimization"

_REPORT = "report.json"
_AFFINE = "transform_0GenericAffine.mat"
_FIELD, _INVERSE_FIELD = "transform_1Warp.nii.gz", "transform_1InverseWarp.nii.gz"


def register(
    fixed: Any,
    moving: Any,
    output_dir: PathLike | None = None,
    *,
    bundle: PathLike | None = None,
    preset: str | None = None,
    refine: str | None = None,
    **options: Any,
) -> RegistrationResult:
    """Register two scans of one anatomy, as ``regplugins register`` does.

    Args:
        fixed: scan, 2-D or 3-D: a file or folder, see ``regplugins.io.load_image``; or in memory an image of nibabel,
            ITK or SimpleITK, a ``MetaTensor`` ``(1, *spatial)``, or ``(array, affine)`` with an array ``(*spatial)``
            and its RAS+ affine.
        moving: scan that is brought to the fixed one, in any of these forms.
        output_dir: folder for the results. Default: a temporary one, which lasts as long as the result.
        bundle: a bundle's folder or name, see ``regplugins.sharing.find_bundle``; default: optimization.
        preset: of the optimization, see ``regplugins.registration.PresetRegistration``; default: "auto".
        refine: refine a network's result by optimizing the "field" or the network's "weights" on this pair.
        options: other keys of the bundle's inference.json, such as ``init``, ``device`` and ``spacing``. Labels
            (``fixed_label``, ``moving_label``) and masks (``fixed_mask``, ``moving_mask``) may have any form of a scan,
            landmarks (``fixed_landmarks``, ``moving_landmarks``) be files or points ``(N, n)`` RAS+ mm. Objects, such
            as a loss for ``similarity``, are taken; definitions for MONAI's parser are not.

    Returns:
        The results.

    Raises:
        FileNotFoundError: if there is no such file or bundle.
        TypeError: if a scan has none of these forms.
        ValueError: if a scan, an option or its value does not fit.
    """
    inputs = {"fixed": fixed, "moving": moving}
    inputs |= {key: options.pop(key) for key in PATH_KEYS if options.get(key) is not None and key not in inputs}
    temporary = None
    if output_dir is None:
        temporary = TemporaryDirectory(prefix="regplugins-")
        output_dir = temporary.name
    folder = Path(output_dir)
    # An image of nibabel may not have been read from its file yet.
    names = [value.get_filename() for value in inputs.values() if isinstance(value, FileBasedImage)]
    origins = [Path(name).resolve() for name in names if name is not None]
    refuse_overwriting_inputs(result_files(folder), origins)
    options = {key: _plain(value) for key, value in options.items()}
    with TemporaryDirectory(prefix="regplugins-inputs-") as given, _unchanged_process():
        space = options.get("landmark_space", "RAS")
        paths = {key: _path(value, Path(given) / key, space) for key, value in inputs.items()}
        run_bundle(folder, bundle, preset, refine, {**options, **paths})
    return RegistrationResult(folder, temporary, origins)


def run_bundle(
    output_dir: PathLike, bundle: PathLike | None, preset: str | None, refine: str | None, options: Mapping[str, Any]
) -> None:
    """Run a bundle's inference with some of its keys set to plain values, such as paths; see ``register``."""
    root = known_bundle(DEFAULT_BUNDLE) if bundle is None else find_bundle(bundle)
    configs = root / "configs"
    files = [configs / f"{name}.json" for name in ("inference", "refine")[: 1 if refine is None else 2]]
    inference = read_json(files[0])
    if "moving" not in inference:
        raise ValueError(f"{root}: registers no pair of images; python -m monai.bundle run runs it")
    if preset is not None:
        if "preset" not in inference:
            raise ValueError(f"--preset {preset}: {root} has no presets")
        options = {**options, "preset": preset}
    if refine is not None:
        if not files[1].is_file():
            raise ValueError(f"--refine {refine}: {root} has no network to refine")
        options = {**options, "refine": refine}
    nested = {key: value for key, value in options.items() if "#" in key or "::" in key}
    if nested:  # the settings of the report, which resume compares, have the others by name
        options = {**options, "settings#nested": str(nested)}
    for file in (*files[1:], configs / "metadata.json"):
        read_json(file)  # MONAI would not name a damaged one
    workflow = DataWorkflow(
        [str(file) for file in files], {"bundle_root": str(root), "output_dir": str(output_dir), **options}
    )
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        raise first_cause(error) from None  # MONAI wraps errors in those of its configuration


class RegistrationResult:
    """Results of ``register``: the files of a folder, read when they are asked for.

    Results that another registration has replaced are refused with a ``ValueError``.

    Attributes:
        folder: of the results.
        report: figures before and after registration, warnings, seconds, settings and versions.
    """

    def __init__(
        self,
        folder: Path,
        temporary: TemporaryDirectory[str] | None = None,
        origins: Sequence[Path] = (),
    ) -> None:
        self.folder = folder.resolve()
        self.report: dict[str, Any] = read_json(self.folder / _REPORT)
        self._written = (self.folder / _REPORT).read_bytes()
        self._temporary = temporary  # removed with this object
        self._origins = origins  # files of images that were given in memory

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.folder}')"

    @cached_property
    def warped(self) -> MetaTensor:
        """Moving image on the grid of the fixed one, ``(1, *spatial)`` float32 with its RAS+ affine."""
        array, grid, warnings = read_volume(self._file("warped.nii.gz"))
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        return StoredImage(values[None], grid, array.dtype, warnings).as_meta_tensor()

    @cached_property
    def transform(self) -> SpatialTransform:
        """From points of the fixed to points of the moving world, ``(N, n)`` RAS+ mm."""
        return read_chain([self._file(_FIELD), self._file(_AFFINE)])

    @cached_property
    def inverse(self) -> SpatialTransform:
        """From points of the moving to points of the fixed world, ``(N, n)`` RAS+ mm."""
        return read_chain([(self._file(_AFFINE), 1), self._file(_INVERSE_FIELD)])

    def figure(self) -> PIL.Image.Image:
        """Picture of three planes: the images, their agreement before and after, and the deformation."""
        with PIL.Image.open(self._file("report.png")) as picture:
            return picture.copy()

    def save(self, folder: PathLike) -> Path:
        """Copy the files of the results to a folder, the report last; other results there are removed.

        Raises:
            NotADirectoryError: if it is a file.
            ValueError: if an input lies where a file goes, or is a folder around it.
        """
        target = output_folder(folder)
        self._file(_REPORT)
        if target.resolve() == self.folder:
            return target
        files = result_files(target)
        inputs = [*self._origins, *(given["path"] for given in self.report["inputs"].values())]
        refuse_overwriting_inputs(files, inputs)
        remove_pair_table(target)
        remove_results(files)
        copied = dict(zip(result_files(self.folder), files, strict=True))
        if not (target / "summary.csv").exists():  # a table that is left is that of a datalist
            copied = {self.folder / "summary.csv": target / "summary.csv", **copied}
        for source, path in copied.items():
            if source.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic(path) as temporary:
                    shutil.copyfile(source, temporary)
        return target

    def _file(self, name: str) -> Path:
        """Path of a file of these results."""
        if not (self.folder / _REPORT).is_file():
            raise FileNotFoundError(f"{self.folder / _REPORT}: no such file: the results are gone; give output_dir")
        if (self.folder / _REPORT).read_bytes() != self._written:
            raise ValueError(f"{self.folder}: holds the results of another registration now; give each its own folder")
        return self.folder / name

    def apply(self, image: Any = None, *, labels: Any = None, points: Any = None, fill: float | None = None) -> Any:
        """Bring an image, a label map or points of the moving world to the fixed world.

        Args:
            image: in any form that ``register`` takes; interpolated linearly. Of a photograph the luminance.
            labels: label map, likewise; the nearest label is taken.
            points: ``(N, n)`` RAS+ mm.
            fill: value outside; default: of an image see ``regplugins.spatial.outside_value``, of labels 0.

        Returns:
            Image or label map ``(1, *spatial)`` on the grid of the fixed image, or points ``(N, n)`` float64.

        Raises:
            TypeError: unless exactly one of them is given.
            ValueError: if the image or label map cannot be read or lies outside the fixed image, or points are not
                ``(N, n)``.
        """
        if (image is not None) + (labels is not None) + (points is not None) != 1:
            raise TypeError("apply: give one of image, labels and points")
        if points is not None:
            given, n = torch.as_tensor(points, dtype=torch.float64), self.inverse.ndim
            if given.shape[1:] != (n,) or not given.isfinite().all():
                raise ValueError(f"points: expected finite numbers of shape (N, {n}), got {tuple(given.shape)}")
            grid, _ = read_grid(self._file("warped.nii.gz"))
            outside = int((~grid.contains(read_chain([(self._file(_AFFINE), 1)])(given))).sum())
            if outside:
                logger.warning(
                    "apply: %d of %d points lie outside the inverse field and take its border's", outside, len(given)
                )
            return self.inverse(given)
        load, mode, given = (load_image, "linear", image) if labels is None else (load_label, "nearest", labels)
        with TemporaryDirectory(prefix="regplugins-inputs-") as folder:
            moving = load(_path(given, Path(folder) / "moving"))
        grid, source = Grid.from_image(self.warped), Grid.from_image(moving)
        if source.ndim != grid.ndim:
            raise ValueError(f"apply: what was given is {source.ndim}-D, the registered images are {grid.ndim}-D")
        if not overlap(grid, source, self.transform):
            raise ValueError("apply: what was given does not overlap the fixed image through the transform")
        values, fill = moving.as_tensor(), outside_value(moving.as_tensor(), fill, labels is not None)
        values = resample(values, source, grid, self.transform, mode, fill)
        return MetaTensor(values, affine=self.warped.affine)


def _path(given: Any, path: Path, landmark_space: str = "RAS") -> str:
    """Path of an input, which is written to ``path`` with a suffix if it is in memory."""
    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    if path.name.endswith("_landmarks"):
        path = path.with_suffix(".csv")
        write_landmarks(torch.as_tensor(given), path, landmark_space)
        return str(path)
    return str(write_given(given, path))


@contextmanager
def _unchanged_process() -> Iterator[None]:
    """Restore what a bundle's run sets for its process: random numbers, cuDNN's choice, loggers, the search path."""
    loggers = map(logging.getLogger, ("", "ignite", "regplugins"))
    messages = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    cudnn, seed, places = torch.backends.cudnn, get_seed(), sys.path[:]
    flags = cudnn.deterministic, cudnn.benchmark
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            try:
                yield
            finally:
                set_determinism(seed)
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        cudnn.deterministic, cudnn.benchmark = flags
        sys.path[:] = places
        for logger, level, propagate, handlers in messages:
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagate, handlers


def _plain(value: Any) -> Any:
    """Value as a configuration holds it: paths as text, arrays and their numbers as those of Python."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
