# SPDX-License-Identifier: Apache-2.0
"""A bundle as a repository of the Hugging Face Hub."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from monai.utils import optional_import

from regplugins.io import sha256
from regplugins.io.files import PathLike, read_json
from regplugins.sharing.archive import pack, unpack

huggingface_hub, _has_hub = optional_import("huggingface_hub")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def publish(
    bundle: PathLike, repository: str, private: bool = True, token: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Upload a bundle as it would be packed, with a first page, and tag the commit with its version.

    ``monai.bundle download --source huggingface_hub --repo REPOSITORY --name NAME --version VERSION`` fetches it.
    ``monai.bundle.push_to_hf_hub`` would upload whatever lies in the folder and call weights Apache-2.0, which the
    terms of their data do not allow.

    Args:
        bundle: the bundle's folder.
        repository: ``owner/name``; created if it does not exist.
        private: make a new repository private.
        token: of the Hub; default: the one ``hf auth login`` has stored.
        dry_run: check everything and list the files to upload, without the network.

    Returns:
        ``repository``, ``version``, ``files`` (sha256 by name), ``url`` of the commit (None after a dry run).

    Raises:
        FileExistsError: if the repository has this version.
        FileNotFoundError, ValueError: as ``pack``, and if no repository can have the name.
        ImportError: if huggingface_hub is not installed and needed.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"repository must be owner/name, got {repository!r}")
    if not (dry_run or _has_hub):
        raise ImportError("publish needs huggingface_hub: pip install 'regplugins[hub]'")
    with tempfile.TemporaryDirectory() as folder:
        root = unpack(str(pack(bundle, folder)), Path(folder) / "unpacked")
        metadata = read_json(root / "configs/metadata.json")
        (root / "README.md").write_text(_first_page(root.name, metadata, repository), encoding="utf-8")
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        files = {path.relative_to(root).as_posix(): sha256(path) for path in paths}
        version = metadata["version"]
        result = {"repository": repository, "version": version, "files": files, "url": None}
        if dry_run:
            return result
        hub = huggingface_hub.HfApi(token=token)
        hub.create_repo(repository, private=private, exist_ok=True)
        if any(tag.name == version for tag in hub.list_repo_refs(repository).tags):
            raise FileExistsError(f"{repository}: version {version} is there already; give the bundle another one")
        # What an earlier version had and this one lacks must not stay.
        options = {"commit_message": f"Version {version}", "delete_patterns": "*"}
        commit = hub.upload_folder(repo_id=repository, folder_path=root, **options)
        hub.create_tag(repository, tag=version, revision=commit.oid)
    return result | {"url": str(commit.commit_url)}


def _first_page(name: str, metadata: dict[str, Any], repository: str) -> str:
    """Page that the Hub shows: its header in YAML, of which JSON is a part, and how to run the bundle."""
    header = {
        "library_name": "monai",
        "license": "other",
        "license_name": "apache-2.0-and-terms-of-data",
        "license_link": "docs/data_license.txt",
        "tags": ["monai", "medical", "image-registration"],
    }
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    version = metadata["version"]
    return f"""---
{lines}
---
# {metadata["name"]}

{metadata["task"]}. {metadata["description"]}

Data, measured figures and limits: [model card](docs/README.md). The code is under [Apache-2.0](LICENSE), weights and
sample images under the terms of their data, which lie beside them. {metadata["intended_use"]}.

With `regplugins` {metadata["required_packages_version"]["regplugins"]} installed:

```bash
python -m monai.bundle download --source huggingface_hub --repo {repository} --version {version} \\
    --name {name} --bundle_dir .
python -m monai.bundle run --config_file {name}/configs/inference.json --bundle_root {name} \\
    --fixed F.nii.gz --moving M.nii.gz --output_dir O
```
"""
