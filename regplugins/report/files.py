# SPDX-License-Identifier: Apache-2.0
"""What a registered pair leaves on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.transforms import Transform

from regplugins.data.records import OUTPUTS
from regplugins.io import keep_inputs, output_folder, read_landmark_names, write_image, write_landmarks, write_transform
from regplugins.report.figure import registration_figure
from regplugins.report.summary import headline, pair_report, write_json
from regplugins.spatial import Grid
from regplugins.transforms.timing import stage


class WritePaird(Transform):
    """Write a pair's images, transforms, landmarks, picture and report; the report comes last and says that all is
    there.

    What an earlier run left under the same names is replaced or, where this pair has no such output, removed.

    Args:
        output_dir: folder; a pair with a ``name`` gets a folder of that name in it.
        weights: file of the network's weights, for the report; None if there are none.
        settings: what else the report is to say of how the pair was registered: text, numbers, lists and mappings.

    Raises:
        NotADirectoryError: ``output_dir`` is a file.
    """

    def __init__(
        self, output_dir: str | Path, weights: str | Path | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.output_dir = output_folder(output_dir)
        self.weights = None if weights is None else Path(weights)
        self.settings = dict(settings or {})

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            ValueError: an input lies where an output would go.
        """
        pair = dict(data)
        folder = self.output_dir / pair["name"] if "name" in pair else self.output_dir
        for name in OUTPUTS:
            keep_inputs(folder / name, pair["paths"].values())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").unlink(missing_ok=True)
        with stage(pair, "write"):
            self._write_files(pair, folder)
        name = pair.get("name", "pair")
        report = pair_report(name, pair["measures"], pair["seconds"], pair["paths"], self.weights, self.settings)
        report["warnings"] = pair.get("warnings", [])
        write_json(report, folder / "report.json")
        return pair

    def _write_files(self, pair: Mapping[str, Any], folder: Path) -> None:
        grid = Grid.from_image(pair["fixed"])
        write_image(pair["warped"], grid, folder / "warped.nii.gz")
        if "warped_label" in pair:
            dtype = pair["moving_label"].meta["stored_dtype"]
            write_image(pair["warped_label"], grid, folder / "warped_label.nii.gz", dtype)
        else:
            (folder / "warped_label.nii.gz").unlink(missing_ok=True)
        write_transform(pair["initial"], folder / "transform_0GenericAffine.mat")
        write_transform(pair["displacement"], folder / "transform_1Warp.nii.gz")
        write_transform(pair["inverse"].sample(grid), folder / "transform_1InverseWarp.nii.gz")
        if "warped_landmarks" in pair:
            names = read_landmark_names(pair["paths"]["fixed_landmarks"])
            write_landmarks(pair["warped_landmarks"], folder / "warped_landmarks.csv", pair["landmark_space"], names)
        else:
            (folder / "warped_landmarks.csv").unlink(missing_ok=True)
        for key in ("moving", "fixed"):
            if "synthesised" in pair:
                write_image(pair["synthesised"][key], pair["grid"], folder / f"synthesised_{key}.nii.gz")
            else:
                (folder / f"synthesised_{key}.nii.gz").unlink(missing_ok=True)
        registration_figure(
            folder / "report.png",
            pair["fixed"].as_tensor(),
            pair["before"],
            pair["warped"],
            grid,
            pair["displacement"].vectors,
            fixed_label=pair["fixed_label"].as_tensor() if "fixed_label" in pair else None,
            before_label=pair.get("before_label"),
            warped_label=pair.get("warped_label"),
            folding_percent=pair["measures"]["folding_percent"],
            title=pair.get("name", ""),
            subtitle=headline(pair["measures"]),
        )
