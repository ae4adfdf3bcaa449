# SPDX-License-Identifier: Apache-2.0
"""``python -m regplugins``: what users do around a bundle run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fire

from regplugins.checks import first_cause
from regplugins.data.hippocampus import prepare_hippocampus

DATASETS = {"hippocampus": prepare_hippocampus}


def register(bundle: str, output_dir: str, refine: str | None = None, **options: Any) -> None:
    """Register a pair with a bundle: the same as running its inference.json.

    Args:
        bundle: the bundle's folder.
        output_dir: where the warped image, the transforms, the picture and the report go.
        refine: improve the result by optimising the "field" or the network's "weights" on this pair (refine.json).
        options: every key of inference.json: --fixed F --moving M, --moving_label L, --init rigid, --device cpu, ...
    """
    import monai.bundle  # takes seconds, which "prepare" need not wait for
    from monai.bundle import ConfigParser

    configs = Path(bundle) / "configs"
    files = [str(configs / "inference.json")]
    if refine is not None:
        files.append(str(configs / "refine.json"))
        options["refine"] = refine
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file}: no such file; is {bundle} a bundle's folder?")
    keys = {key for file in files for key in ConfigParser.load_config_file(file)}
    unknown = sorted(option for option in options if option.split("#")[0].split("::")[0] not in keys)
    if unknown:
        raise ValueError(f"unknown options {unknown}; {', '.join(map(repr, files))} have {sorted(keys)}")
    logging_file = str(configs / "logging.conf")
    monai.bundle.run(
        config_file=files, logging_file=logging_file, bundle_root=str(bundle), output_dir=str(output_dir), **options
    )


def prepare(dataset: str, source: str, target: str) -> str:
    """Turn a data set's folder, as downloaded, into a datalist.

    Args:
        dataset: "hippocampus", the Medical Segmentation Decathlon's Task04 (monai.apps.DecathlonDataset downloads it).
        source: the data set's folder.
        target: folder in which datalist.json is written: the dataset_dir of the bundle.
    """
    if dataset not in DATASETS:
        raise ValueError(f"unknown data set '{dataset}', expected one of {sorted(DATASETS)}")
    return str(DATASETS[dataset](source, target))


def main() -> None:
    """Entry point of the command line; a user's mistake ends with its message and exit code 1."""
    try:
        fire.Fire({"prepare": prepare, "register": register}, name="regplugins")
    except Exception as error:
        sys.exit(f"error: {first_cause(error)}")


if __name__ == "__main__":
    main()
