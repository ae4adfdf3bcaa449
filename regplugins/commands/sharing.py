# SPDX-License-Identifier: Apache-2.0
"""`new`, `build`, `pack`, `unpack`, `publish` and `label`: bundles to begin, to share, and to label with."""

from __future__ import annotations

from typing import Any

import regplugins  # its parts, and MONAI with them, are loaded when a command needs them: help should not wait


def new(bundle: str) -> dict[str, Any]:
    """Lay out a bundle to begin a method with: it runs, trains on made-up images at once, and passes every check.

    Args:
        bundle: folder to make, such as bundles/<anatomy>_<modality>_<method>.
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
        output_dir: where to write <name>_v<version>.zip and <name>_v<version>.zip.sha256.
        weights_url: address of a folder where the weights are kept; the archive then holds large_files.yml in place of
            them, for monai.bundle download_large_files.
    """
    archive = regplugins.sharing.pack(bundle, output_dir, weights_url)
    return {"archive": str(archive), "sha256": regplugins.io.sha256(archive), "bytes": archive.stat().st_size}


def unpack(archive: str, output_dir: str, sha256: str | None = None) -> dict[str, Any]:
    """Take a bundle out of an archive of pack, once it is found whole, and nothing but a bundle with plain weights.

    Its configurations are programs, which monai.bundle run executes: take bundles from whom you trust.

    Args:
        archive: zip file, or its address (http, https).
        output_dir: where to put the bundle's folder.
        sha256: what the archive must have; by default what a file <archive>.sha256 beside it says, if there is one.
    """
    return {"bundle": str(regplugins.sharing.unpack(archive, output_dir, sha256))}


def publish(bundle: str, repository: str, private: bool = True, dry_run: bool = False) -> dict[str, Any]:
    """Upload a bundle to the Hugging Face Hub, with the files that pack takes, and tag it with its version.

    Wants huggingface_hub (pip install 'regplugins[hub]') and its token (hf auth login, or HF_TOKEN).

    Args:
        bundle: the bundle's folder.
        repository: owner/name; made if need be.
        private: whether a new repository is.
        dry_run: check the bundle and tell what would go up, without the network.
    """
    return regplugins.sharing.publish(bundle, repository, private, dry_run=dry_run)


def label(
    bundle: str, output_dir: str, moving: str, moving_label: str, names: dict[str, int] | None = None
) -> dict[str, Any]:
    """Lay out a bundle for MONAI Label's app monaibundle: the labels of one image, brought to the one that is opened.

    Args:
        bundle: the bundle's folder.
        output_dir: the app's folder model, such as apps/monaibundle/model.
        moving: the annotated image.
        moving_label: its labels.
        names: of the labels' values, such as "{'anterior': 1, 'posterior': 2}"; default: "label 1" and so on.
    """
    return {"bundle": str(regplugins.label.lay_out(bundle, output_dir, moving, moving_label, names))}
