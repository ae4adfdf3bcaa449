# SPDX-License-Identifier: Apache-2.0
"""Save the results of a registered pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from monai.transforms import Transform

from regplugins.checks import positive
from regplugins.data import PATH_KEYS, swapped_key
from regplugins.data.records import direction_files, remove_results, result_files
from regplugins.io import json_text, read_landmark_names, sha256, write_image, write_landmarks, write_transform
from regplugins.io.files import output_folder, refuse_overwriting_inputs, remove_temporaries
from regplugins.io.photographs import has_pixel_size, write_channels
from regplugins.report.figure import pair_figure
from regplugins.report.summary import pair_report, versions, write_json
from regplugins.spatial import DisplacementField, Grid, downsample_field, downsampling_error
from regplugins.transforms.timing import stage
from regplugins.transforms.warn import warn

# What was chosen for the pair: its key in the pair, and among the report's settings.
_CHOSEN = "chosen"
# Voxels of the fixed image by which a coarser field may differ.
_MAX_FIELD_ERROR = 0.05


class SavePaird(Transform):
    """Save a pair's images, transforms, landmarks, picture and report.

    The report is written last and marks the pair as complete. Outputs of an earlier run are replaced or removed.

    Args:
        output_dir: folder; a pair with a ``name`` gets a folder of that name in it.
        weights: file of the network's weights, for the report; None if there are none.
        settings: of the registration, for the report: strings, numbers, lists and mappings.
        field_spacing: spacing in mm of the two saved displacement fields, at least the fixed image's own along each
            axis. The fields extend a voxel beyond the fixed image. The report gives their largest difference from the
            full fields, with a warning above 0.05 voxel. Default: the fixed image's grid.

    Raises:
        NotADirectoryError: if ``output_dir`` is a file.
        ValueError: if ``field_spacing`` is not a positive number; on call, if an output has the path of an input, or
            lies in a folder that is one.
    """

    def __init__(
        self,
        output_dir: str | Path,
        weights: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        field_spacing: float | None = None,
    ) -> None:
        self.output_dir = output_folder(output_dir)
        self.weights = None if weights is None else Path(weights)
        self.settings = dict(settings or {})
        self.field_spacing = None if field_spacing is None else positive("field_spacing", field_spacing)
        self._deferred: list[Callable[[], None]] | None = None

    def folder(self, record: Mapping[str, Any]) -> Path:
        """Output folder of a pair: ``output_dir``, or the folder of its ``name`` in it."""
        return self.output_dir / record["name"] if "name" in record else self.output_dir

    def refuse_overwriting_inputs(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Refuse pairs whose outputs would overwrite or lie in an input of any of them.

        Raises:
            ValueError: if an output has the path of an input, or lies in a folder that is one.
        """
        inputs = [record[key] for record in records for key in PATH_KEYS if key in record]
        init = Path(str(self.settings.get("init")))
        written = [path for record in records for path in result_files(self.folder(record))]
        refuse_overwriting_inputs(
            [*written, self.output_dir / "summary.csv"], [*inputs, init if init.is_file() else None]
        )

    @cached_property
    def configuration_sha256(self) -> str:
        """sha256 of the settings, weights and version."""
        made_with = [self.settings, self._weights_sha256, versions()["regplugins"]]
        return hashlib.sha256(json_text({"made_with": made_with}).encode()).hexdigest()

    def is_complete(self, record: Mapping[str, Any]) -> bool:
        """True if all results of a pair exist, from the same inputs, weights, settings and version."""
        folder = self.folder(record)
        try:
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            inputs = {swapped_key(k) if report["swapped"] else k: entry for k, entry in report["inputs"].items()}
            # The file of an initial transform is the only input that is not in the record.
            paths = {**record, "init": inputs["init"]["path"]} if "init" in inputs else record
            settings = {key: value for key, value in report["settings"].items() if key != _CHOSEN}
            if inputs.keys() != paths.keys() - {"name"} or settings != json.loads(json_text(self.settings)):
                return False
            made_with = (report["versions"]["regplugins"], report["weights"] and report["weights"]["sha256"])
            if made_with != (versions()["regplugins"], self._weights_sha256):
                return False
            if any((folder / name).stat().st_size != size for name, size in report["outputs_bytes"].items()):
                return False
            return all(sha256(paths[key]) == entry["sha256"] for key, entry in inputs.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a missing file, or a foreign report
            return False

    @cached_property
    def _weights_sha256(self) -> str | None:
        return None if self.weights is None else sha256(self.weights)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        pair = dict(data)
        folder = self.folder(pair)
        refuse_overwriting_inputs(direction_files(folder), pair["paths"].values())
        if self._deferred is None:
            self._save(pair, folder)
        else:
            self._deferred.append(partial(self._save, pair, folder))
        return pair

    @contextmanager
    def deferred(self) -> Iterator[list[Callable[[], None]]]:
        """Within the block collect, in place of the writing of each pair, a function that does it.

        The functions are to be called in this order. They read the pair's images and fields.
        """
        self._deferred = []
        try:
            yield self._deferred
        finally:
            self._deferred = None

    def _save(self, pair: dict[str, Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_results(direction_files(folder))
        remove_temporaries(folder)
        with stage(pair, "save"):
            self._write_files(pair, folder)
        name = pair.get("name", "pair")
        chosen = {_CHOSEN: pair[_CHOSEN]} if _CHOSEN in pair else {}
        settings = {**self.settings, **chosen}
        report = pair_report(name, pair["metrics"], pair["seconds"], pair["paths"], self.weights, settings)
        if "grid" in pair:
            grid = pair["grid"]
            report["network_grid"] = {"shape": list(grid.shape), "spacing_mm": grid.spacing.tolist()}
        if "field_spacing_error_voxels" in pair:
            report["field_spacing_error_voxels"] = pair["field_spacing_error_voxels"]
        report |= {"warnings": pair.get("warnings", []), "swapped": pair.get("swapped", False)}
        report["outputs_bytes"] = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in result_files(folder) if path.is_file()
        }
        write_json(report, folder / "report.json")

    def _write_files(self, pair: MutableMapping[str, Any], folder: Path) -> None:
        grid = Grid.from_image(pair["fixed"])
        fields = self._stored_fields(pair, grid)  # before the picture, which shows the warnings
        # Compress in another thread while the picture is drawn.
        with ThreadPoolExecutor(max_workers=1) as writer:
            volumes = writer.submit(self._write_volumes, pair, grid, fields, folder)
            init = pair.get(_CHOSEN, {}).get("init", self.settings.get("init"))
            pair_figure(folder / "report.png", pair, init)
            volumes.result()
        write_transform(pair["initial"], folder / "transform_0GenericAffine.mat")
        if "warped_landmarks" in pair:
            names = read_landmark_names(pair["paths"]["fixed_landmarks"])
            write_landmarks(pair["warped_landmarks"], folder / "warped_landmarks.csv", pair["landmark_space"], names)

    def _stored_fields(self, pair: MutableMapping[str, Any], grid: Grid) -> dict[str, DisplacementField]:
        """Displacement fields to save; adds the error of coarser ones to the pair and warns if it is large."""
        fields = {"forward": pair["displacement"], "inverse": pair["inverse"].sample(grid)}
        if self.field_spacing is None:
            return fields
        stored = {way: downsample_field(field, self.field_spacing) for way, field in fields.items()}
        errors = {way: downsampling_error(field, stored[way]) for way, field in fields.items()}
        pair["field_spacing_error_voxels"] = errors
        if max(errors.values()) > _MAX_FIELD_ERROR:
            losses = ", ".join(f"{way} {error:.2g}" for way, error in errors.items())
            warn(
                pair,
                f"{pair['paths']['moving']}: the displacement fields stored at {self.field_spacing:g} mm differ from "
                f"the full ones by up to {max(errors.values()):.2g} voxel ({losses}); give a smaller --field_spacing",
            )
        return stored

    def _write_volumes(
        self, pair: Mapping[str, Any], grid: Grid, fields: Mapping[str, DisplacementField], folder: Path
    ) -> None:
        write_image(pair["warped"], grid, folder / "warped.nii.gz")
        if "warped_channels" in pair:
            suffix = ".tif" if has_pixel_size(pair["paths"]["moving"]) else ".png"
            write_channels(pair["warped_channels"], pair["moving_channels"].dtype, grid, folder / f"warped{suffix}")
        if "warped_label" in pair:
            dtype = pair["moving_label"].meta["stored_dtype"]
            write_image(pair["warped_label"], grid, folder / "warped_label.nii.gz", dtype)
        write_transform(fields["forward"], folder / "transform_1Warp.nii.gz")
        write_transform(fields["inverse"], folder / "transform_1InverseWarp.nii.gz")
        for key, image in pair.get("synthesized", {}).items():
            write_image(image, pair["grid"], folder / f"synthesized_{key}.nii.gz")
