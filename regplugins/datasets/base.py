# SPDX-License-Identifier: Apache-2.0
"""A public data set: its files, their origin and terms, and their preparation for training and evaluation."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from monai.apps.utils import download_url
from tqdm import tqdm

from regplugins.io import atomic, output_folder, sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Published address of one file of a data set.

    ``convert`` writes the data set's file (second argument) from the published one (first); None: used as published.
    """

    url: str
    convert: Callable[[Path, Path], None] | None = None


def github(repository: str, commit: str, path: str) -> str:
    """Address of a file in a GitHub repository ``owner/name`` at a commit."""
    return f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"


def checksums(*folders: str) -> Mapping[str, str]:
    """SHA-256 of each file of ``SHA256SUMS`` below a folder, by its path there; of several, with the folder's name."""
    found = {}
    for line in files(__package__).joinpath("SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, path = line.split("  ", 1)
        folder, name = path.split("/", 1)
        if folder in folders:
            found[name if len(folders) == 1 else path] = digest
    return found


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Args:
        name: what ``regplugins prepare`` calls it.
        title: what it shows, in a line.
        license: terms of the images.
        origin: who publishes it, and where.
        prepare: writes ``datalist.json`` into a target folder (second argument) from the folder of the data set's
            files (first argument), and returns its path.
        checksums: SHA-256 of each file, by its path in the folder.
        sources: where each file is published, likewise. Empty if the published files were changed in ways that are not
            fully described: the folder has to be given then.
    """

    name: str
    title: str
    license: str
    origin: str
    prepare: Callable[[Path, Path], Path]
    checksums: Mapping[str, str]
    sources: Mapping[str, Source] = field(default_factory=dict)

    def build(self, target: str | Path, source: str | Path | None = None) -> Path:
        """Write ``datalist.json``, and the files that it names beside those of the data set; its path.

        Args:
            target: folder for what is written, made if need be.
            source: folder of the data set's files. Default: they are downloaded to ``downloads`` in ``target``.

        Raises:
            ConnectionError: if a file cannot be downloaded.
            FileNotFoundError: if a file or folder is missing.
            ValueError: if a downloaded file is not the expected one, or the data set cannot be downloaded.
        """
        target = output_folder(target).resolve()
        if source is None:
            folder = target / "downloads"
            self._download(folder)
        else:
            folder = Path(source).resolve()
            self._compare(folder)
        return self.prepare(folder, target)

    def _download(self, folder: Path) -> None:
        if not self.sources:
            raise ValueError(
                f"{self.name}: cannot be downloaded, its files differ from the published ones; "
                f"give their folder as --source FOLDER (origin: {self.origin})"
            )
        for name, source in tqdm(self.sources.items(), desc=f"downloading {self.name}"):
            path = folder / name
            if path.is_file() and sha256(path) == self.checksums[name]:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as temporary:
                _write(source, temporary)
                found = sha256(temporary)
                if found != self.checksums[name]:
                    raise ValueError(
                        f"{path}: the file from {source.url} has SHA-256 {found}, expected {self.checksums[name]}; "
                        "download it again, or give the data set's folder as --source FOLDER"
                    )

    def _compare(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; it should hold {self.title} (origin: {self.origin})")
        present = (name for name in self.checksums if (folder / name).is_file())
        changed = [name for name in present if sha256(folder / name) != self.checksums[name]]
        if changed:
            logger.warning(
                "%s: %d of %d files differ from those that the published figures rest on, the first is %s",
                *(folder, len(changed), len(self.checksums), changed[0]),
            )


def _write(source: Source, path: Path) -> None:
    """Download a file, and convert it if need be."""
    if source.convert is None:
        _fetch(source.url, path)
        return
    with TemporaryDirectory() as folder:
        published = Path(folder, "published")
        _fetch(source.url, published)
        try:
            source.convert(published, path)
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{source.url}: not the expected file ({type(error).__name__}: {error})") from error


def _fetch(url: str, path: Path) -> None:
    """Download a file; ``download_url`` checks no hash, because its error does not tell the hash that was found."""
    log = logging.getLogger("monai.apps")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No hash value provided")
            download_url(url, path, hash_type="sha256", progress=False)
    except (OSError, HTTPException) as error:
        raise ConnectionError(
            f"{url}: cannot be downloaded ({error}); run the command again, finished files are kept"
        ) from error
    finally:
        log.setLevel(level)
