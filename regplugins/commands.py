# SPDX-License-Identifier: Apache-2.0
"""The commands of ``python -m regplugins``, each thin over a public function; their docstrings are the help texts."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import regplugins  # its parts, and MONAI with them, are loaded when a command needs them: help should not wait

if TYPE_CHECKING:
    from regplugins.spatial import Transform

logger = logging.getLogger(__name__)

# Mean residual in mm from which an inverse is not to be trusted.
_POOR_INVERSE = 0.5


def register(bundle: str, output_dir: str, refine: str | None = None, **options: Any) -> dict[str, Any]:
    """Register a pair with a bundle: the same as running its inference.json.

    Args:
        bundle: the bundle's folder.
        output_dir: where the warped image, the transforms, the picture and the report go.
        refine: improve the result by optimising the "field" or the network's "weights" on this pair (refine.json).
        options: every key of inference.json: --fixed F --moving M, --moving_label L, --init rigid, --device cpu, ...
    """
    import monai.bundle  # takes seconds, which the other commands need not wait for
    from monai.bundle import ConfigParser

    configs = Path(bundle) / "configs"
    files = [str(configs / "inference.json")]
    if refine is not None:
        files.append(str(configs / "refine.json"))
        options["refine"] = refine
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file}: no such file; is {bundle} a bundle's folder?")
    keys = {key for file in files for key in ConfigParser.load_config_file(file)} - {"bundle_root"}
    unknown = sorted(option for option in options if option.split("#")[0].split("::")[0] not in keys)
    if unknown:
        raise ValueError(f"unknown options {unknown}; {', '.join(map(repr, files))} have {sorted(keys)}")
    logging_file = str(configs / "logging.conf")
    monai.bundle.run(config_file=files, logging_file=logging_file, bundle_root=bundle, output_dir=output_dir, **options)
    return {"summary": str(Path(output_dir) / "summary.csv"), "output_dir": output_dir}


def align(
    fixed: str,
    moving: str,
    output_dir: str,
    kind: str = "rigid",
    fixed_mask: str | None = None,
    moving_mask: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Bring two scans roughly together: the initial transform alone, without a network.

    Writes transform_0GenericAffine.mat (ITK, LPS mm, fixed to moving points), which ANTs, ITK, Slicer and --init of
    every bundle read.

    Args:
        fixed: scan that stays: NIfTI, NRRD, MHA or a DICOM folder.
        moving: scan that is to lie on it.
        output_dir: folder for the transform.
        kind: "rigid" or "affine" (mutual information), "centre" (centres of mass) or "fov" (centres of the fields of
            view).
        fixed_mask: label map on the fixed scan's grid; only where it is not zero does the scan count.
        moving_mask: the same for the moving scan.
        seed: of the sampling.
    """
    kinds = [choice for choice in regplugins.prealign.CHOICES if choice != "none"]
    if kind not in kinds:
        raise ValueError(f"kind must be one of {kinds}, got '{kind}'")
    given = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    (record,) = regplugins.data.pair_records(given, None, "")
    pair = regplugins.transforms.LoadPaird()(record)
    begin = time.perf_counter()
    initial = regplugins.transforms.initial_of(pair, kind, seed)
    seconds = time.perf_counter() - begin
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "transform_0GenericAffine.mat"
    regplugins.io.write_transform(initial, path)
    return {"transform": str(path), "seconds": round(seconds, 3)}


def apply(
    *transforms: str,
    output: str,
    reference: str | None = None,
    image: str | None = None,
    label: str | None = None,
    landmarks: str | None = None,
    landmark_space: str = "RAS",
    inverse: bool = False,
    interpolation: str = "linear",
    fill: float = 0.0,
) -> dict[str, Any]:
    """Send an image, a label map or landmarks through transform files.

    Images go from the moving to the fixed scan, landmarks from the fixed to the moving one; with --inverse each goes
    the other way.

    Args:
        transforms: files in the order of antsApplyTransforms: transform_1Warp.nii.gz transform_0GenericAffine.mat;
            [file,1] is a file's inverse.
        output: file to write; NIfTI, or CSV for landmarks.
        reference: scan whose grid the result gets: the fixed one; with --inverse the moving one. Landmarks need none.
        image: scan to resample.
        label: label map to resample instead; its values and its type are kept.
        landmarks: CSV file with x,y,z in mm to carry instead.
        landmark_space: "RAS" or "LPS", the world of the CSV's numbers.
        inverse: go back.
        interpolation: of the image, "linear" or "nearest".
        fill: value outside the image.
    """
    logger.info("reading %d transforms", len(transforms))
    chain = regplugins.io.read_chain(transforms)
    result: dict[str, Any] = {}
    if regplugins.checks.boolean("inverse", inverse):
        logger.info("inverting")
        chain = ~chain
        result = _what_inversion_left(chain)
    given = {key: path for key, path in (("image", image), ("label", label), ("landmarks", landmarks)) if path}
    if len(given) != 1:
        raise ValueError(f"give one of --image, --label and --landmarks, got {sorted(given)}")
    ((kind, path),) = given.items()
    inputs = [*regplugins.io.chain_files(transforms), path, *([] if reference is None else [reference])]
    regplugins.io.keep_inputs(output, inputs)
    meant = {"landmarks": ("landmark_space",), "label": ("reference",), "image": ("reference", "interpolation", "fill")}
    chosen = {"reference": reference is not None, "landmark_space": landmark_space != "RAS"}
    chosen |= {"interpolation": interpolation != "linear", "fill": fill != 0}
    useless = [option for option, is_chosen in chosen.items() if is_chosen and option not in meant[kind]]
    if useless:
        raise ValueError(f"--{useless[0]} says nothing about --{kind}")
    if kind == "landmarks":
        _carry_landmarks(chain, path, output, landmark_space)
    else:
        _resample_file(chain, kind, path, output, reference, interpolation, fill)
    return {kind: output, **result}


def compose(*transforms: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Make one transform file of several.

    Args:
        transforms: files in the order of antsApplyTransforms: of a fixed point, the first named is applied first.
        output: .h5 keeps the parts; .nii.gz is one displacement field on the reference's grid; .mat, .tfm or .txt if
            all parts are affine.
        reference: scan whose grid a displacement field gets: the fixed one. Default: that of the field that is
            applied first.
    """
    return _write(regplugins.io.read_chain(transforms), output, reference, transforms)


def convert(transform: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Write a transform file in another form; the endings say which.

    Args:
        transform: .mat, .tfm, .txt, .h5 or .nii.gz.
        output: .mat, .tfm, .txt (affine transforms), .h5 (any) or .nii.gz (a displacement field).
        reference: scan whose grid a displacement field gets. Default: that of the field that is applied
            first.
    """
    return _write(regplugins.io.read_chain([transform]), output, reference, [transform])


def invert(*transforms: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Write the inverse of a transform, or of several one after the other.

    Affine parts are inverted exactly, displacement fields by fixed-point iteration: the command says what that leaves,
    in mm.

    Args:
        transforms: files in the order of antsApplyTransforms.
        output: as for compose.
        reference: scan whose grid a displacement field gets: the moving one. Default: that of the field that is
            applied first.
    """
    logger.info("inverting")
    inverse = ~regplugins.io.read_chain(transforms)
    return _write(inverse, output, reference, transforms) | _what_inversion_left(inverse)


def evaluate(
    warped_label: str | None = None,
    fixed_label: str | None = None,
    warped_landmarks: str | None = None,
    moving_landmarks: str | None = None,
    transform: str | None = None,
    landmark_space: str = "RAS",
) -> dict[str, Any]:
    """Judge a registration of any tool by its files: overlap of labels, distance of landmarks, folding.

    Args:
        warped_label: label map after registration; gives Dice, HD95 and ASD (mm) with fixed_label.
        fixed_label: label map on the same grid.
        warped_landmarks: CSV of landmarks after registration; gives the target registration error (mm) with
            moving_landmarks.
        moving_landmarks: CSV of where they belong, in the same order.
        transform: displacement field (.nii.gz); gives the share of folded voxels and the spread of log Jacobian.
        landmark_space: "RAS" or "LPS", the world of both CSV files.
    """
    figures: dict[str, Any] = {}
    if _both(warped_label=warped_label, fixed_label=fixed_label):
        warped, fixed = regplugins.data.load_label(warped_label), regplugins.data.load_label(fixed_label)
        grid = regplugins.spatial.Grid.from_image(fixed)
        if not grid.matches(regplugins.spatial.Grid.from_image(warped), tolerance=0.1):
            raise ValueError(f"{warped_label}: does not lie on the grid of {fixed_label}")
        scores = regplugins.metrics.label_overlap(warped.as_tensor(), fixed.as_tensor(), grid.spacing.tolist())
        if not scores:
            raise ValueError(f"{fixed_label}: only background, no structure to judge by")
        figures["overlap"] = {**scores, "mean": regplugins.metrics.mean_overlap(scores)}
    if _both(warped_landmarks=warped_landmarks, moving_landmarks=moving_landmarks):
        points = [regplugins.io.read_landmarks(path, landmark_space) for path in (warped_landmarks, moving_landmarks)]
        if points[0].shape != points[1].shape:
            shapes = [tuple(part.shape) for part in points]
            raise ValueError(f"{warped_landmarks} and {moving_landmarks}: points {shapes[0]} and {shapes[1]}")
        error = regplugins.metrics.target_registration_error(*points)
        figures["tre_mm"] = {"mean": float(error.mean()), "max": float(error.max()), "n": len(error)}
    if transform is not None:
        ddf = regplugins.io.read_displacement(transform).to_ddf()[None]
        determinant = regplugins.spatial.jacobian_determinant(ddf)
        figures["folding_percent"] = float(regplugins.metrics.folding_percent(determinant))
        figures["sd_log_jacobian"] = float(regplugins.metrics.sd_log_jacobian(determinant))
    if not figures:
        raise ValueError("nothing to judge: give two label maps, two landmark files or a transform")
    return figures


def report(
    output_dir: str,
    *transforms: str,
    fixed: str | None = None,
    moving: str | None = None,
    fixed_label: str | None = None,
    moving_label: str | None = None,
    fixed_landmarks: str | None = None,
    moving_landmarks: str | None = None,
    landmark_space: str = "RAS",
    fill: float = 0.0,
) -> dict[str, Any]:
    """Report on registered pairs: a page over a folder of them, or all files of one pair from its transforms.

    With a folder alone, writes report.html into it, over the pairs of its summary.csv or metrics.csv. With images and
    transforms, which may be any tool's, writes what a bundle would have written of that pair: warped images, picture,
    report.json.

    Args:
        output_dir: the folder.
        transforms: files in the order of antsApplyTransforms, from the fixed to the moving scan.
        fixed: scan that stayed.
        moving: scan that was registered.
        fixed_label: label map of the fixed scan.
        moving_label: label map of the moving scan.
        fixed_landmarks: CSV with x,y,z in mm.
        moving_landmarks: CSV with the same points in the moving scan.
        landmark_space: "RAS" or "LPS", the world of both CSV files.
        fill: value of the warped image outside the moving one.
    """
    given = {
        "fixed": fixed,
        "moving": moving,
        "fixed_label": fixed_label,
        "moving_label": moving_label,
        "fixed_landmarks": fixed_landmarks,
        "moving_landmarks": moving_landmarks,
    }
    if not transforms and all(path is None for path in given.values()):
        return {"page": str(regplugins.report.write_page(output_dir))}
    for key in ("fixed", "moving"):
        if given[key] is None:
            raise ValueError(f"no {key} image given: a report on a pair needs --fixed, --moving and its transforms")
    (record,) = regplugins.data.pair_records(given, None, "")
    logger.info("carrying, measuring and drawing %s", moving)
    pair = regplugins.transforms.CarryPaird(regplugins.io.read_chain(transforms), fill=fill)(
        regplugins.transforms.LoadPaird(landmark_space)(record)
    )
    regplugins.report.WritePaird(output_dir)(regplugins.report.MeasurePaird()(pair))
    return {"report": str(Path(output_dir) / "report.json"), "picture": str(Path(output_dir) / "report.png")}


def prepare(dataset: str, source: str, target: str) -> dict[str, Any]:
    """Turn a data set's folder, as downloaded, into a datalist.

    Args:
        dataset: "hippocampus", the Medical Segmentation Decathlon's Task04 (monai.apps.DecathlonDataset downloads it).
        source: the data set's folder.
        target: folder in which datalist.json is written: the dataset_dir of the bundle.
    """
    prepare_dataset = regplugins.checks.choice("dataset", dataset, regplugins.data.DATASETS)
    return {"datalist": str(prepare_dataset(source, target))}


def bundles(folder: str = "bundles") -> dict[str, Any]:
    """List the bundles in a folder: version, task, and whether their weights are those that metadata.json names.

    Args:
        folder: where to look; a bundle is a folder with configs/metadata.json.
    """
    found: dict[str, Any] = {}
    for path in sorted(Path(folder).glob("*/configs/metadata.json")):
        root, weights = path.parents[1], {}
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))
            for name, entry in metadata.get("weights", {}).items():
                file = root / name
                same = file.is_file() and regplugins.report.sha256(file) == entry["sha256"]
                weights[name] = "ok" if same else "changed" if file.is_file() else "missing"
            found[root.name] = {"version": metadata["version"], "task": metadata["task"], "weights": weights}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a bundle's metadata ({error!r})") from error
    if not found:
        raise FileNotFoundError(f"{folder}: no bundle in this folder; give --folder")
    return found


COMMANDS = {
    command.__name__: command
    for command in (register, align, apply, compose, invert, convert, evaluate, report, prepare, bundles)
}


def _write(transform: Transform, output: str, reference: str | None, inputs: Sequence[Any]) -> dict[str, Any]:
    """Write a transform in the form that the output's name asks for."""
    grid = None if reference is None else regplugins.data.load_grid(reference)
    if grid is not None and grid.ndim != transform.ndim:
        raise ValueError(f"{reference}: {grid.ndim}-D, the transform is {transform.ndim}-D")
    regplugins.io.keep_inputs(output, [*regplugins.io.chain_files(inputs), *([] if reference is None else [reference])])
    regplugins.io.write_chain(transform, output, grid)
    return {"transform": output}


def _what_inversion_left(inverse: Transform) -> dict[str, float]:
    """How far, in mm, inverted displacement fields are from being inverses; nothing if all parts are affine."""
    parts = regplugins.spatial.CompositeTransform([inverse]).transforms
    fields = [part for part in parts if isinstance(part, regplugins.spatial.DisplacementField)]
    left = [field.residual for field in fields if field.residual is not None]
    if not left:
        return {}
    mean, largest = max(float(part.mean()) for part in left), max(float(part.max()) for part in left)
    if mean > _POOR_INVERSE:
        logger.warning("the inverse of a displacement field is off by %.1f mm in the mean: does the field fold?", mean)
    return {"residual_mean_mm": mean, "residual_max_mm": largest}


def _carry_landmarks(transform: Transform, path: str, output: str, space: str) -> None:
    if not str(output).endswith(".csv"):
        raise ValueError(f"{output}: landmarks are written as .csv")
    points = regplugins.io.read_landmarks(path, space)
    if points.shape[1] != transform.ndim:
        raise ValueError(f"{path}: {points.shape[1]}-D points, the transform is {transform.ndim}-D")
    regplugins.io.write_landmarks(transform(points), output, space, regplugins.io.read_landmark_names(path))


def _resample_file(
    transform: Transform, kind: str, path: str, output: str, reference: str | None, interpolation: str, fill: float
) -> None:
    if not str(output).endswith((".nii", ".nii.gz")):
        raise ValueError(f"{output}: an image is written as .nii or .nii.gz")
    if reference is None:
        raise ValueError("give --reference, the scan whose grid the result gets")
    target = regplugins.data.load_grid(reference)
    volume = regplugins.data.load_label(path) if kind == "label" else regplugins.data.load_image(path)
    source = regplugins.spatial.Grid.from_image(volume)
    for name, grid in ((reference, target), (path, source)):
        if grid.ndim != transform.ndim:
            raise ValueError(f"{name}: {grid.ndim}-D, the transform is {transform.ndim}-D")
    if not regplugins.spatial.overlap(target, source, transform):
        raise ValueError(f"{reference} and {path} do not overlap through the transform: the result would be empty")
    logger.info("resampling %s", path)
    if kind == "label":
        result = regplugins.spatial.resample_labels(volume.as_tensor(), source, target, transform)
        regplugins.report.write_image(result, target, output, volume.meta["stored_dtype"])
    else:
        result = regplugins.spatial.resample(volume.as_tensor(), source, target, transform, interpolation, float(fill))
        regplugins.report.write_image(result, target, output)


def _both(**files: str | None) -> bool:
    """Whether two files that belong together are given."""
    (first, a), (second, b) = files.items()
    if (a is None) != (b is None):
        raise ValueError(f"give both --{first} and --{second}, or neither")
    return a is not None
