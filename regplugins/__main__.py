# SPDX-License-Identifier: Apache-2.0
"""``python -m regplugins``: what users do around a bundle run."""

from __future__ import annotations

import fire

from regplugins.data.hippocampus import prepare_hippocampus


def prepare(dataset: str, source: str, target: str) -> str:
    """Turn a data set's folder, as downloaded, into a datalist.

    Args:
        dataset: "hippocampus", the Medical Segmentation Decathlon's Task04 (``monai.apps.DecathlonDataset`` downloads it).
        source: the data set's folder.
        target: folder in which ``datalist.json`` is written; what bundles call ``dataset_dir``.
    """
    datasets = {"hippocampus": prepare_hippocampus}
    if dataset not in datasets:
        raise ValueError(f"unknown data set '{dataset}', expected one of {sorted(datasets)}")
    return str(datasets[dataset](source, target))


def main() -> None:
    """Entry point of the command line."""
    fire.Fire({"prepare": prepare}, name="regplugins")


if __name__ == "__main__":
    main()
