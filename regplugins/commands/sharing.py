# SPDX-License-Identifier: Apache-2.0
"""`prepare`, `bundles`, `new`, `build`, `pack`, `unpack`, `publish` and `label`: data sets for bundles, and bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import regplugins


def prepare(dataset: str, target: str, source: str | None = None) -> dict[str, Any]:
    """Download a public data set, or take its folder, and write the datalist to train or evaluate with.

    Args:
        dataset: its name, one of abdomen_ct_mr, brain_t1_labels, brains, cardiac_cine, cardiac_cine_train, ct_mr_limbs,
            head_ct_mr_phantom, heads, hippocampus, histology_2d, label_maps, liver_mr4d, lung_ct, lung_mr, mouse_ct,
            thorax_ct. hippocampus, histology_2d and mouse_ct can be downloaded.
        target: folder in which datalist.json is written: the dataset_dir of a bundle.
        source: folder of the data set's files; downloaded to target/downloads if it is not given.
    """
    chosen = regplugins.checks.choice("dataset", dataset, regplugins.datasets.DATASETS)
    return {"datalist": str(chosen.build(target, source)), "license": chosen.license}


def bundles(folder: str = "bundles") -> dict[str, Any]:
    """List the bundles in a folder: version, task, and whether their weights are those that metadata.json names.

    Args:
        folder: folder of bundles; a bundle is a folder with configs/metadata.json.
    """
    found: dict[str, Any] = {}
    for path in sorted(Path(folder).glob("*/configs/metadata.json")):
        root, weights = path.parents[1], {}
        metadata = regplugins.io.read_json(path)
        try:
            for name, entry in metadata.get("weights", {}).items():
                file = root / name
                same = file.is_file() and regplugins.io.sha256(file) == entry["sha256"].lower()
                weights[name] = "ok" if same else "changed" if file.is_file() else "missing"
            found[root.name] = {"version": metadata["version"], "task": metadata["task"], "weights": weights}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a bundle's metadata ({error!r})") from error
    if not found:
        raise FileNotFoundError(f"{folder}: no bundle in this folder; give --folder")
    return found


def new(bundle: str) -> dict[str, Any]:
    """Create a bundle for a new method: it runs, trains on synthetic images at once, and passes every check.

    Args:
        bundle: folder to create, such as bundles/<anatomy>_<modality>_<method>.
    """
    return {"bundle": str(regplugins.sharing.new(bundle))}


def build(*bundles: str) -> dict[str, Any]:
    """Write the configurations of bundles: those that all bundles share, with the differences in bundle.json.

    Args:
        bundles: the bundles' folders.
    """
    return {bundle: " ".join(path.name for path in regplugins.sharing.build(bundle)) for bundle in bundles}


def pack(bundle: str, output_dir: str, weights_url: str | None = None) -> dict[str, Any]:
    """Write a bundle as one zip file, as monai.bundle download takes it, and its sha256 beside it.

    The same bundle gives the same bytes. Results, data sets and weights that metadata.json does not name are left out.

    Args:
        bundle: the bundle's folder.
        output_dir: folder for <name>_v<version>.zip and <name>_v<version>.zip.sha256.
        weights_url: address of a folder with the weights. The archive then holds large_files.yml in their place, for
            monai.bundle download_large_files.
    """
    archive = regplugins.sharing.pack(bundle, output_dir, weights_url)
    return {"archive": str(archive), "sha256": regplugins.io.sha256(archive), "bytes": archive.stat().st_size}


def unpack(archive: str, output_dir: str, sha256: str | None = None) -> dict[str, Any]:
    """Extract a bundle from an archive of pack, after checking that it is complete and holds plain weights.

    Its configurations are programs, which monai.bundle run executes: take bundles only from people you trust.

    Args:
        archive: zip file, or its address (http, https).
        output_dir: folder for the bundle's folder.
        sha256: expected sha256 of the archive. Default: that in the file <archive>.sha256 beside it, if there is one.
    """
    return {"bundle": str(regplugins.sharing.unpack(archive, output_dir, sha256))}


def publish(bundle: str, repository: str, private: bool = True, dry_run: bool = False) -> dict[str, Any]:
    """Upload a bundle to the Hugging Face Hub, with the files that pack takes, and tag it with its version.

    Needs huggingface_hub (pip install 'regplugins[hub]') and its token (hf auth login, or HF_TOKEN).

    Args:
        bundle: the bundle's folder.
        repository: owner/name; created if it does not exist.
        private: make a new repository private.
        dry_run: check the bundle and list the files to upload, without the network.
    """
    private = regplugins.checks.boolean("private", private)
    dry_run = regplugins.checks.boolean("dry_run", dry_run)
    return regplugins.sharing.publish(bundle, repository, private, dry_run=dry_run)


def label(
    bundle: str, output_dir: str, moving: str, moving_label: str, names: dict[str, int] | None = None
) -> dict[str, Any]:
    """Prepare a bundle for MONAI Label's app monaibundle, which warps the labels of one image to the opened image.

    Args:
        bundle: the bundle's folder.
        output_dir: the app's folder model, such as apps/monaibundle/model.
        moving: annotated image.
        moving_label: label map of the annotated image.
        names: names of the label values, such as "{'anterior': 1, 'posterior': 2}". Default: "label 1", "label 2", ...
    """
    if not isinstance(names, dict | None):
        raise ValueError(f"names must be like \"{{'anterior': 1, 'posterior': 2}}\", got {names!r}")
    return {"bundle": str(regplugins.label.lay_out(bundle, output_dir, moving, moving_label, names))}
