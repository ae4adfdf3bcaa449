# SPDX-License-Identifier: Apache-2.0
"""Archives of bundles: the same bytes each time, taken by MONAI, refused where they are not what they should be."""

import hashlib
import json
import os
import pickle
import re
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import monai.bundle
import nibabel as nib
import pytest
import torch
from monai.apps.utils import HashCheckError

from regplugins.sharing import pack, unpack

ROOT = Path(__file__).resolve().parents[2]
NAME = "hippocampus_mr_multires_fcn"
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(ROOT / "bundles" / NAME, tmp_path_factory.mktemp("archive"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address under which ``tmp_path/www`` is served."""
    (tmp_path / "www").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()
        thread.join()


def repacked(archive: Path, target: Path, change: Callable[[dict[zipfile.ZipInfo, bytes]], None]) -> Path:
    """A copy of an archive after ``change`` of its entries."""
    with zipfile.ZipFile(archive) as source:
        entries = {entry: source.read(entry) for entry in source.infolist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as copy:
        for entry, data in entries.items():
            copy.writestr(entry, data)
    return target


class TestPack:
    @pytest.mark.parametrize("name", [NAME, "any_modality_optimization"])
    def test_what_git_keeps_of_a_bundle_comes_back(self, name, tmp_path):
        """Every file of the repository's folder but the source of its configurations, in the same bytes."""
        bundle = ROOT / "bundles" / name
        clean = shutil.copytree(bundle, tmp_path / "clean" / bundle.name)
        (clean / "bundle.json").unlink()
        for left in ("output", "eval", "data"):
            shutil.rmtree(clean / left, ignore_errors=True)
        version = json.loads((bundle / "configs/metadata.json").read_text())["version"]
        written = pack(bundle, tmp_path)
        assert written.name == f"{bundle.name}_v{version}.zip"
        came, kept = contents(unpack(str(written), tmp_path / "out")), contents(clean)
        del came["docs/README.md"], kept["docs/README.md"]
        assert came == kept

    def test_links_of_the_card_lead_nowhere_else(self, archive, tmp_path):
        """All that are left resolve, and nothing but links out of the bundle has changed."""
        card = unpack(str(archive), tmp_path) / "docs/README.md"
        link = re.compile(r"!?\[([^\]]*)\]\(([^)]*)\)")
        places = [place for _, place in link.findall(card.read_text()) if not place.startswith(("https://", "#"))]
        assert all((card.parent / place).exists() for place in places)
        before = (ROOT / "bundles" / NAME / "docs/README.md").read_text()
        assert "](../../../docs/" in before
        assert link.sub(r"\1", card.read_text()) == link.sub(r"\1", before)

    def test_the_same_bytes_whatever_lies_about_it(self, archive, tmp_path):
        copy = shutil.copytree(ROOT / "bundles" / NAME, tmp_path / NAME)
        for path in copy.rglob("*"):
            os.utime(path, (0, 0))
            path.chmod(0o700)
        for junk in ("output/warped.nii.gz", "data/case.nii.gz", "models/model_mine.pt", "docs/.notes.md", "run.py"):
            (copy / junk).parent.mkdir(exist_ok=True)
            (copy / junk).write_bytes(b"mine")
        assert pack(copy, tmp_path / "out").read_bytes() == archive.read_bytes()

    def test_its_sha256_lies_beside_it(self, archive):
        assert archive.with_name(f"{archive.name}.sha256").read_text() == f"{digest(archive)}  {archive.name}\n"

    @pytest.mark.parametrize(
        ("spoil", "error", "message"),
        [
            (lambda root: (root / "configs/metadata.json").unlink(), FileNotFoundError, "no bundle"),
            (lambda root: (root / "configs/metadata.json").write_text("{}"), ValueError, "not a bundle's metadata"),
            (
                lambda root: (root / "configs/metadata.json").write_text("{ garbage"),
                ValueError,
                f"^{NAME}/configs/metadata.json: not JSON",
            ),
            (
                lambda root: (root / "configs/inference.json").write_text("[1]"),
                ValueError,
                f"^{NAME}/configs/inference.json: expected a JSON object, got a list",
            ),
            (
                lambda root: (root / "docs/picture.png").write_bytes(bytes(50_000_001)),
                ValueError,
                r"holds 'docs/picture\.png' of 50 MB, a file has at most 50 MB",
            ),
            (
                lambda root: [(root / "docs" / name).touch() for name in ("A.txt", "a.txt")],
                ValueError,
                r"holds '.*docs/A\.txt' and '.*docs/a\.txt', which differ in case",
            ),
            (
                lambda root: (root / "docs/p.txt").symlink_to("/etc/hostname"),
                ValueError,
                "docs/p.txt is a link out of it",
            ),
            (lambda root: (root / "models/model.pt").unlink(), FileNotFoundError, "models/model.pt is missing"),
            (lambda root: (root / "models/model.pt").write_bytes(b"PK"), ValueError, "models/model.pt does not load"),
            (
                lambda root: torch.save({"weight": torch.ones(1)}, root / "models/model.pt"),
                ValueError,
                "models/model.pt is not the file",
            ),
            (lambda root: torch.save([1.0], root / "models/model.pt"), ValueError, "something else than weights"),
        ],
    )
    def test_refuses_what_nobody_could_use(self, spoil, error, message, tmp_path):
        copy = shutil.copytree(ROOT / "bundles" / NAME, tmp_path / NAME)
        spoil(copy)
        with pytest.raises(error, match=message):
            pack(copy, tmp_path / "out")
        assert not list(tmp_path.glob("out/*"))


class TestUnpack:
    def refused(self, archive: Path, tmp_path: Path, message: str, sha256: str | None = None) -> None:
        with pytest.raises(ValueError, match=message):
            unpack(str(archive), tmp_path / "out", sha256)
        assert not list((tmp_path / "out").iterdir())

    def test_another_sha256(self, archive, tmp_path):
        self.refused(archive, tmp_path, "its sha256 is", "0" * 64)

    def test_the_sha256_beside_it_counts(self, archive, tmp_path):
        for path in (archive, archive.with_name(f"{archive.name}.sha256")):
            shutil.copy(path, tmp_path)
        copy = tmp_path / archive.name
        copy.write_bytes(copy.read_bytes() + b"\0")
        self.refused(copy, tmp_path, "its sha256 is")

    def test_a_changed_byte(self, archive, tmp_path):
        data = bytearray(archive.read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "changed.zip").write_bytes(data)
        self.refused(tmp_path / "changed.zip", tmp_path, "damaged")

    def test_half_a_file(self, archive, tmp_path):
        (tmp_path / "half.zip").write_bytes(archive.read_bytes()[:1000])
        self.refused(tmp_path / "half.zip", tmp_path, "damaged, or no zip file")

    def test_a_link(self, archive, tmp_path):
        def link(entries: dict[zipfile.ZipInfo, bytes]) -> None:
            entry = zipfile.ZipInfo(f"{NAME}/configs/link.json")
            entry.create_system = 3
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            entries[entry] = b"/etc/passwd"

        self.refused(repacked(archive, tmp_path / "link.zip", link), tmp_path, "it holds .*link.json")

    def test_a_program_for_weights(self, archive, tmp_path):
        """Weights that would run code when they are loaded, though the metadata vouches for them."""

        class Program:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        data = pickle.dumps(Program())

        def swap(entries: dict[zipfile.ZipInfo, bytes]) -> None:
            for entry in entries:
                if entry.filename.endswith("models/model.pt"):
                    entries[entry] = data
                if entry.filename.endswith("metadata.json"):
                    metadata = json.loads(entries[entry])
                    metadata["weights"]["models/model.pt"]["sha256"] = hashlib.sha256(data).hexdigest()
                    entries[entry] = json.dumps(metadata).encode()

        self.refused(repacked(archive, tmp_path / "program.zip", swap), tmp_path, "does not load as weights alone")
        assert not (tmp_path / "ran").exists()

    def test_leaves_a_folder_of_that_name_alone(self, archive, tmp_path):
        (tmp_path / NAME).mkdir()
        (tmp_path / NAME / "mine").touch()
        with pytest.raises(FileExistsError, match="is there already"):
            unpack(str(archive), tmp_path)
        assert [path.name for path in (tmp_path / NAME).iterdir()] == ["mine"]
        assert [path.name for path in tmp_path.iterdir()] == [NAME]

    @pytest.mark.parametrize(
        "entry",
        [
            {"path": "models/model.pt", "hash_type": "sha256", "hash_val": "0" * 64},
            {"path": "models/model.pt", "hash_type": "md5"},
            {"path": "configs/train.json", "hash_type": "sha256"},
            {"path": "../../../evil.txt", "hash_type": "sha256"},
            {"path": "models/model.pt"},
        ],
    )
    def test_files_kept_elsewhere_that_the_metadata_do_not_vouch_for(self, entry, archive, tmp_path):
        def change(entries: dict[zipfile.ZipInfo, bytes]) -> None:
            (metadata,) = (json.loads(data) for name, data in entries.items() if "metadata" in name.filename)
            own = {"url": "http://localhost", "hash_val": metadata["weights"]["models/model.pt"]["sha256"]}
            listed = json.dumps({"large_files": [own | entry]}).encode()
            entries[zipfile.ZipInfo(f"{NAME}/large_files.yml")] = listed

        self.refused(repacked(archive, tmp_path / "more.zip", change), tmp_path, r"large_files\.yml: ")

    @pytest.mark.parametrize("part", ["LICENSE", "configs/inference.json", "docs/README.md", "configs/metadata.json"])
    def test_without_a_part(self, part, archive, tmp_path):
        def take(entries: dict[zipfile.ZipInfo, bytes]) -> None:
            entries.pop(next(entry for entry in entries if entry.filename == f"{NAME}/{part}"))

        with pytest.raises(FileNotFoundError, match=f"{NAME}: no bundle, it has no {part}"):
            unpack(str(repacked(archive, tmp_path / "less.zip", take)), tmp_path / "out")
        assert not any((tmp_path / "out").iterdir())

    def test_an_empty_archive(self, tmp_path):
        zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
        self.refused(tmp_path / "empty.zip", tmp_path, "empty.zip: no archive of one bundle, it is empty")

    @pytest.mark.parametrize(
        ("sizes", "method", "message"),
        [
            # Text that becomes a thousandth, in an archive that is large otherwise.
            ([2 * 10**6], zipfile.ZIP_DEFLATED, r"holds '\w+/docs/0\.md', which becomes more than 100 times as large"),
            ([5 * 10**7 + 1], zipfile.ZIP_STORED, r"holds '\w+/docs/0\.md' of 50 MB, a file has at most 50 MB"),
            ([5 * 10**7] * 4, zipfile.ZIP_STORED, "it would take 20[0-9] MB, a bundle has at most 200 MB"),
        ],
    )
    def test_what_would_fill_a_disk(self, sizes, method, message, archive, tmp_path):
        shutil.copy(archive, tmp_path / "bomb.zip")
        with zipfile.ZipFile(tmp_path / "bomb.zip", "a", method) as file:
            for number, size in enumerate(sizes):
                file.writestr(f"{NAME}/docs/{number}.md", bytes(size))
        self.refused(tmp_path / "bomb.zip", tmp_path, message)

    def test_a_password(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "secret.zip", "w") as file:
            file.writestr(f"{NAME}/LICENSE", "text")
        data = bytearray((tmp_path / "secret.zip").read_bytes())
        for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(mark) + place] |= 1  # the flag of an entry that is encrypted
        (tmp_path / "secret.zip").write_bytes(data)
        self.refused(tmp_path / "secret.zip", tmp_path, r"secret\.zip: damaged, or no zip file \(.*password required")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            *(
                (name, "no archive of one bundle")
                for name in (
                    f"{NAME}/../../escaped.json",
                    "../escaped.json",
                    "/tmp/escaped.json",
                    f"{NAME}/configs/..\\escaped.json",
                    f"{NAME}/scripts/run.py",
                    f"{NAME}/models/model.pkl",
                    f"{NAME}/configs/.hidden.json",
                    ".",
                    f"{NAME}/../../escaped/",
                    "/escaped/",
                )
            ),
            ("another/configs/train.json", f"no archive of one bundle, it holds several folders: 'another', '{NAME}'$"),
            (f"{NAME}/models/model_more.pt", r"does not name \['models/model_more.pt'\]"),
            *(
                (f"{NAME}/{name}", r"holds '.*/train\.json' twice")
                for name in ("configs/train.json", "configs/./train.json", "configs//train.json")
            ),
            (
                f"{NAME}/configs/Train.json",
                f"holds '{NAME}/configs/train.json' and '{NAME}/configs/Train.json', which differ in case",
            ),
            (
                f"{NAME}/configs/train.json/more.json",
                r"more\.zip: no archive of one bundle, it holds '\w+/configs/train\.json' as a file and as a folder",
            ),
            # Names that would forge a terminal's output.
            *(
                (name, re.escape(f"it holds {name!r}"))
                for name in (f"{NAME}/configs/a\nb.json", f"{NAME}/docs/\x1b[31mred.md", f"{NAME}/docs/\x85.md")
            ),
        ],
    )
    def test_a_file_that_does_not_belong_there(self, name, message, archive, tmp_path):
        def add(entries: dict[zipfile.ZipInfo, bytes]) -> None:
            entries[zipfile.ZipInfo(name)] = b"{}"

        self.refused(repacked(archive, tmp_path / "more.zip", add), tmp_path, message)
        assert not list(tmp_path.parent.rglob("escaped.json"))

    def test_an_empty_file_of_the_sha256(self, archive, tmp_path):
        shutil.copy(archive, tmp_path)
        (tmp_path / f"{archive.name}.sha256").touch()
        self.refused(tmp_path / archive.name, tmp_path, "its sha256 is .*, not nothing")

    @pytest.mark.parametrize(
        "change",
        [
            lambda metadata: metadata | {"version": "../../x"},
            lambda metadata: metadata | {"weights": {"../../x.pt": {"sha256": "0" * 64}}},
            lambda metadata: metadata | {"weights": {"models/../../x.pt": {"sha256": "0" * 64}}},
            lambda metadata: metadata | {"weights": {"": {"sha256": "0" * 64}}},
        ],
    )
    def test_metadata_that_name_places(self, change, archive, tmp_path):
        def swap(entries: dict[zipfile.ZipInfo, bytes]) -> None:
            for entry in entries:
                if entry.filename.endswith("metadata.json"):
                    entries[entry] = json.dumps(change(json.loads(entries[entry]))).encode()

        self.refused(repacked(archive, tmp_path / "other.zip", swap), tmp_path, "not a bundle's metadata")

    def test_a_list_of_large_files_that_is_none(self, archive, tmp_path):
        def change(entries: dict[zipfile.ZipInfo, bytes]) -> None:
            entries[zipfile.ZipInfo(f"{NAME}/large_files.yml")] = b"large_files: 3"

        broken = repacked(archive, tmp_path / "broken.zip", change)
        with pytest.raises(ValueError, match=rf"^{NAME}/large_files\.yml: not JSON"):
            unpack(str(broken), tmp_path / "out")
        assert not any((tmp_path / "out").iterdir())

    def test_from_an_address(self, archive, server, tmp_path):
        shutil.copy(archive, tmp_path / "www")
        bundle = unpack(f"{server}/{archive.name}", tmp_path / "out", digest(archive))
        assert contents(bundle) == contents(unpack(str(archive), tmp_path / "again"))

    def test_an_address_that_gives_nothing(self, server, tmp_path):
        closed = "http://127.0.0.1:9/bundle.zip"
        for address, reason in ((f"{server}/absent.zip", "404"), (closed, "Connection refused")):
            with pytest.raises(ConnectionError, match=rf"^{address}: cannot be downloaded \(.*{reason}"):
                unpack(address, tmp_path / "out")
        assert not any((tmp_path / "out").iterdir())


class TestWithMonai:
    @pytest.mark.slow
    def test_downloads_and_runs(self, archive, server, tmp_path):
        shutil.copy(archive, tmp_path / "www")
        zoo = {"bundle_dir": str(tmp_path / "zoo"), "progress": False}
        monai.bundle.download(name=NAME, url=f"{server}/{archive.name}", **zoo)
        bundle = tmp_path / "zoo" / NAME
        assert contents(bundle) == contents(unpack(str(archive), tmp_path / "out"))
        monai.bundle.run(
            config_file=str(bundle / "configs/inference.json"),
            bundle_root=str(bundle),
            output_dir=str(tmp_path / "output"),
        )
        assert nib.load(tmp_path / "output/warped.nii.gz").shape == nib.load(bundle / "sample/fixed.nii.gz").shape

    def test_fetches_weights_that_are_kept_elsewhere(self, server, tmp_path):
        pytest.importorskip("yaml", reason="MONAI reads large_files.yml by PyYAML")
        source = ROOT / "bundles" / NAME
        written = pack(source, tmp_path / "light", weights_url=f"{server}/{NAME}/")
        bundle = unpack(str(written), tmp_path / "out")
        assert not (bundle / "models").exists()
        shutil.copytree(source / "models", tmp_path / "www" / NAME / "models")
        monai.bundle.download_large_files(bundle_path=str(bundle))
        names = [path.name for path in (source / "models").glob("*.pt")]
        assert {name: digest(bundle / "models" / name) for name in names} == {
            name: digest(source / "models" / name) for name in names
        }
        assert pack(bundle, tmp_path / "again").read_bytes() == pack(source, tmp_path / "whole").read_bytes()

    def test_does_not_take_other_weights_from_there(self, server, tmp_path):
        pytest.importorskip("yaml", reason="MONAI reads large_files.yml by PyYAML")
        bundle = unpack(
            str(pack(ROOT / "bundles" / NAME, tmp_path / "light", weights_url=f"{server}/{NAME}")), tmp_path / "out"
        )
        shutil.copytree(ROOT / "bundles" / NAME / "models", tmp_path / "www" / NAME / "models")
        torch.save({"weight": torch.ones(1)}, tmp_path / "www" / NAME / "models/model.pt")
        with pytest.raises(HashCheckError, match="sha256"):
            monai.bundle.download_large_files(bundle_path=str(bundle))
        assert not (bundle / "models/model.pt").exists()
