# SPDX-License-Identifier: Apache-2.0
"""A bundle as one zip file, as MONAI downloads them: written reproducibly, checked before it is unpacked."""

from __future__ import annotations

import json
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from monai.apps import download_url

from regplugins.compatibility import check_metadata
from regplugins.io import sha256
from regplugins.io.files import PathLike, atomic, existing, output_folder, read_json
from regplugins.sharing.contents import LARGE_FILES, archive_fault, belongs, part_of, size_fault

_METADATA = "configs/metadata.json"
_INFERENCE = "configs/inference.json"
_CARD = "docs/README.md"
# What a bundle has at least, besides its metadata.
_REQUIRED = ("LICENSE", _INFERENCE, _CARD)
# A link of the card, in docs/, that leads out of the bundle.
_LINK_ELSEWHERE = re.compile(rb"!?\[([^\]]*)\]\((?:\.\./){2}[^)]*\)")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){1,2}")


def pack(bundle: PathLike, output_dir: PathLike, weights_url: str | None = None) -> Path:
    """Write a bundle as ``<name>_v<version>.zip``, or ``…_without_weights.zip``, with one folder ``<name>`` in it.

    The files are sorted, not compressed and without dates: the same bundle gives the same bytes on every machine.
    Of ``models`` it holds what ``metadata.json`` names. Links of the card out of the bundle become plain text.

    Args:
        bundle: the bundle's folder.
        output_dir: folder to write to; created if it is missing.
        weights_url: address of a folder with the weights. The archive then holds ``large_files.yml`` in their place, by
            which ``monai.bundle download_large_files`` fetches them.

    Returns:
        The archive; ``<archive>.sha256`` lies beside it, as ``sha256sum -c`` reads it.

    Raises:
        FileNotFoundError: if there is no bundle, or it lacks a part.
        ValueError: if weights are not those of the metadata or not weights alone, inference.json is not JSON, or a file
            is too large, a link out of the bundle, or has a name that ``unpack`` refuses.
    """
    bundle, output_dir = Path(bundle).resolve(), output_folder(output_dir)
    metadata = _metadata(bundle)
    weights = metadata["weights"]
    files = {name: bundle / name for name in bundle_files(bundle)}
    _check_parts(bundle)
    _check_weights(bundle, weights)
    if weights_url is not None:
        files = {name: path for name, path in files.items() if name not in weights}
    for name, path in files.items():
        if not path.resolve().is_relative_to(bundle):
            raise ValueError(f"{bundle}: {name} is a link out of it")
    fault = archive_fault([zipfile.ZipInfo(f"{bundle.name}/{name}") for name in files])  # what ``unpack`` would refuse
    fault = fault or size_fault((name, path.stat().st_size, path.stat().st_size) for name, path in files.items())
    if fault:
        raise ValueError(f"{bundle}: {fault}")
    output_dir.mkdir(parents=True, exist_ok=True)
    suffix = "" if weights_url is None else "_without_weights"
    target = output_dir / f"{bundle.name}_v{metadata['version']}{suffix}.zip"
    with atomic(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        texts = {_CARD: _LINK_ELSEWHERE.sub(rb"\1", files[_CARD].read_bytes())}
        if weights_url is not None:
            texts[LARGE_FILES] = _large_files(weights, weights_url).encode()
        for name in sorted({*files, *texts}):
            entry = zipfile.ZipInfo(f"{bundle.name}/{name}")  # of 1980, the first year that zip files know
            entry.create_system = 3  # whatever the machine
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, texts[name] if name in texts else files[name].read_bytes())
    with atomic(f"{target}.sha256") as temporary:
        temporary.write_text(f"{sha256(target)}  {target.name}\n", encoding="utf-8")
    return target


def unpack(archive: str, output_dir: PathLike, digest: str | None = None) -> Path:
    """Extract the bundle of an archive of ``pack``, if it is complete and holds nothing but a bundle.

    Its weights must load as weights alone, without running code. Its configurations are programs all the same, which
    ``monai.bundle run`` executes: a bundle of someone you do not trust is not made safe by this.

    Args:
        archive: a file, or an address (http, https).
        output_dir: folder for the bundle's folder; created if it is missing.
        digest: sha256 that the archive must have. Default: that in a file ``<archive>.sha256`` beside it, if any.

    Raises:
        ConnectionError: if the address cannot be downloaded.
        FileNotFoundError: if there is no such archive, or it lacks a part.
        FileExistsError: if there is a folder of the bundle's name.
        ValueError: if the archive has another sha256, is damaged or not one of one bundle, or weights are not those of
            the metadata or not weights alone.
    """
    output_dir = output_folder(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the whole bundle takes its place at once.
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".unpack-") as folder:
        path = Path(archive)
        if archive.startswith(("http://", "https://")):
            path = Path(folder) / "bundle.zip"
            try:
                download_url(archive, path, progress=False)
            except Exception as error:  # urllib raises whatever an address or a server leads to
                raise ConnectionError(f"{archive}: cannot be downloaded ({error})") from error
        _check_digest(existing(path), archive, digest)
        bundle = Path(folder) / _extract(path, archive, Path(folder))
        weights = _metadata(bundle)["weights"]
        _check_weights(bundle, weights, _kept_elsewhere(bundle, weights))
        _check_parts(bundle)
        unnamed = [name for name in _files(bundle) if part_of(name) == "models" and name not in weights]
        if unnamed:
            raise ValueError(f"{archive}: no archive of one bundle, its {_METADATA} does not name {unnamed}")
        target = output_dir / bundle.name
        if target.exists():
            raise FileExistsError(f"{target}: is there already; remove it or choose another output_dir")
        bundle.rename(target)
    return target


def bundle_files(bundle: Path) -> list[str]:
    """Files of a bundle, relative to its folder; of ``models`` those that ``metadata.json`` lists."""
    weights = _metadata(bundle)["weights"]
    return [name for name in _files(bundle) if name in weights or (name != LARGE_FILES and part_of(name) != "models")]


def _files(bundle: Path) -> list[str]:
    names = (path.relative_to(bundle).as_posix() for path in sorted(bundle.rglob("*")) if path.is_file())
    return [name for name in names if belongs(name)]


def _metadata(bundle: Path) -> dict[str, Any]:
    path = bundle / _METADATA
    if not path.is_file():
        raise FileNotFoundError(f"{bundle.name}: no bundle, it has no {_METADATA}")
    metadata = read_json(path, f"{bundle.name}/{_METADATA}")
    try:
        version = str(metadata["version"])
        if not _VERSION.fullmatch(version):  # it becomes part of a file's name
            raise ValueError(f"version {version!r}")
        weights = {name: entry["sha256"].lower() for name, entry in metadata["weights"].items()}
        outside = [name for name in weights if not name or part_of(name) != "models" or not belongs(name)]
        if outside:
            raise ValueError(f"weights {outside[0]!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{bundle.name}/{_METADATA}: not a bundle's metadata ({error!r})") from error
    check_metadata(bundle.name, metadata)
    return {"version": version, "weights": weights}


def _check_parts(bundle: Path) -> None:
    for name in _REQUIRED:
        if not (bundle / name).is_file():
            raise FileNotFoundError(f"{bundle.name}: no bundle, it has no {name}")
    read_json(bundle / _INFERENCE, f"{bundle.name}/{_INFERENCE}")


def _check_weights(bundle: Path, weights: Mapping[str, str], elsewhere: Iterable[str] = ()) -> None:
    """Refuse weights that are missing, not those of the metadata, or more than tensors."""
    for name, digest in weights.items():
        path = bundle / name
        if not path.is_file():
            if name in elsewhere:
                continue
            raise FileNotFoundError(f"{bundle.name}: {name} is missing, which {_METADATA} names")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{bundle.name}: {name} does not load as weights alone: damaged, or a program") from error
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError(f"{bundle.name}: {name} holds something else than weights")
        if sha256(path) != digest:
            raise ValueError(f"{bundle.name}: {name} is not the file whose sha256 {_METADATA} names")


def _large_files(weights: Mapping[str, str], url: str) -> str:
    entries = [
        {"path": name, "url": f"{url.rstrip('/')}/{name}", "hash_val": digest, "hash_type": "sha256"}
        for name, digest in sorted(weights.items())
    ]
    return json.dumps({"large_files": entries}, indent=2) + "\n"  # JSON is YAML


def _kept_elsewhere(bundle: Path, weights: Mapping[str, str]) -> list[str]:
    """The weights that ``large_files.yml`` has fetched, if it fetches nothing else and only what the metadata name."""
    path = bundle / LARGE_FILES
    if not path.is_file():
        return []
    try:
        entries = read_json(path, f"{bundle.name}/{LARGE_FILES}")["large_files"]
        found = [(entry["path"], entry["hash_type"], entry["hash_val"]) for entry in entries]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{bundle.name}/{LARGE_FILES}: not a list of files as pack writes it ({error!r})") from error
    for name, kind, digest in found:
        if name not in weights or kind != "sha256" or str(digest).lower() != weights[name]:
            raise ValueError(f"{bundle.name}/{LARGE_FILES}: {name} is none of the weights that {_METADATA} names")
    return [name for name, _, _ in found]


def _check_digest(path: Path, archive: str, digest: str | None) -> None:
    beside = path.with_name(f"{path.name}.sha256")
    if digest is None and beside.is_file():
        digest = next(iter(beside.read_text(encoding="utf-8").split()), "nothing")
    if digest is not None and sha256(path) != digest.lower():
        raise ValueError(f"{archive}: its sha256 is {sha256(path)}, not {digest}: damaged, or another file")


def _extract(path: Path, name: str, folder: Path) -> str:
    """Extract an archive that the user calls by a name; the name of the one folder in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            fault = archive_fault(archive.infolist())
            if fault:
                raise ValueError(f"{name}: no archive of one bundle, it {fault}")
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            archive.extractall(folder, entries)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted
        raise ValueError(f"{name}: damaged, or no zip file ({error})") from error
    except OSError as error:  # a full disk, say; the folder of the user is named, not the temporary one in it
        raise OSError(error.errno, error.strerror, str(folder.parent)) from error
    return PurePosixPath(entries[0].filename).parts[0]
