# SPDX-License-Identifier: Apache-2.0
"""Downloads of data sets from a server on the loopback address, and folders that are given instead."""

import csv
import hashlib
import json
import logging
import socket
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import itk
import numpy as np
import pytest
from PIL import Image

from regplugins.commands import COMMANDS
from regplugins.datasets import DATASETS, DataSet, Source, base, histology_2d, mouse_ct
from regplugins.datasets.base import checksums
from regplugins.datasets.datalist import prepare_files

FILES = {"a.nii.gz": b"first image", "folder/b.nii.gz": b"second image"}
PAIR = {"name": "a_b", "fixed": "a.nii.gz", "moving": "folder/b.nii.gz"}


class Server(ThreadingHTTPServer):
    """Serve a folder, and keep the paths that were asked for. What is in ``cut`` ends after four bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.cut = folder, [], set()
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path not in self.server.cut:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for name, content in FILES.items():
        path = tmp_path / "published" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with Server(tmp_path / "published") as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def data_set(url: str | None = None, convert: Callable[[Path, Path], None] | None = None) -> DataSet:
    expected = {name: convert_bytes(content) if convert else content for name, content in FILES.items()}
    return DataSet(
        name="two",
        title="two images",
        license="CC0",
        origin="example.org",
        prepare=prepare_files({"report": [PAIR]}),
        checksums={name: hashlib.sha256(content).hexdigest() for name, content in expected.items()},
        sources={name: Source(f"{url}/{name}", convert) for name in FILES} if url else {},
    )


def convert_bytes(content: bytes) -> bytes:
    return content.upper()


def convert(published: Path, path: Path) -> None:
    path.write_bytes(convert_bytes(published.read_bytes()))


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class TestDownload:
    def test_files_and_datalist(self, server: Server, tmp_path: Path) -> None:
        target = tmp_path / "new" / "target"
        path = data_set(server.url).build(target)
        (record,) = json.loads(path.read_text())["report"]
        assert record == {
            "name": "a_b",
            "fixed": str(target / "downloads/a.nii.gz"),
            "moving": str(target / "downloads/folder/b.nii.gz"),
        }
        assert Path(record["fixed"]).read_bytes() == FILES["a.nii.gz"]
        assert files_below(target) == {"datalist.json", *(f"downloads/{name}" for name in FILES)}

    def test_finished_files_are_not_fetched_again(self, server: Server, tmp_path: Path) -> None:
        data_set(server.url).build(tmp_path / "target")
        assert server.asked == [f"/{name}" for name in FILES]
        data_set(server.url).build(tmp_path / "target")
        assert len(server.asked) == len(FILES)

    def test_a_broken_download_goes_on_where_it_stopped(self, server: Server, tmp_path: Path) -> None:
        server.cut = {"/folder/b.nii.gz"}
        target = tmp_path / "target"
        with pytest.raises(ConnectionError, match=rf"^{server.url}/folder/b.nii.gz: cannot be downloaded \(.*\); run"):
            data_set(server.url).build(target)
        assert files_below(target) == {"downloads/a.nii.gz"}
        server.cut = set()
        data_set(server.url).build(target)
        assert server.asked.count("/a.nii.gz") == 1
        assert (target / "downloads/folder/b.nii.gz").read_bytes() == FILES["folder/b.nii.gz"]

    def test_a_changed_file_on_the_disk_is_fetched_again(self, server: Server, tmp_path: Path) -> None:
        data_set(server.url).build(tmp_path / "target")
        (tmp_path / "target/downloads/a.nii.gz").write_bytes(b"other")
        data_set(server.url).build(tmp_path / "target")
        assert (tmp_path / "target/downloads/a.nii.gz").read_bytes() == FILES["a.nii.gz"]

    def test_another_file_than_expected(self, server: Server, tmp_path: Path) -> None:
        (server.folder / "a.nii.gz").write_bytes(b"other")
        with pytest.raises(ValueError) as error:
            data_set(server.url).build(tmp_path / "target")
        message = str(error.value)
        assert message.startswith(f"{tmp_path}/target/downloads/a.nii.gz: ") and "\n" not in message
        for content in (b"other", FILES["a.nii.gz"]):
            assert hashlib.sha256(content).hexdigest() in message
        assert not files_below(tmp_path / "target")

    def test_a_server_that_does_not_speak_http(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def answer() -> None:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(1024)
                    connection.sendall(b"hello\r\n")

            thread = Thread(target=answer)
            thread.start()
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with pytest.raises(ConnectionError, match=rf"^{address}/a.nii.gz: cannot be downloaded \(hello"):
                data_set(address).build(tmp_path / "target")
            thread.join()

    def test_a_missing_file_on_the_server(self, server: Server, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
        (server.folder / "a.nii.gz").unlink()
        with pytest.raises(ConnectionError, match=r"/a.nii.gz: cannot be downloaded \(HTTP Error 404"):
            data_set(server.url).build(tmp_path / "target")
        assert not files_below(tmp_path / "target")
        assert "rror" not in "".join(capfd.readouterr())

    def test_the_prepared_file_is_verified_if_the_published_one_is_converted(
        self, server: Server, tmp_path: Path
    ) -> None:
        data_set(server.url, convert).build(tmp_path / "target")
        assert (tmp_path / "target/downloads/a.nii.gz").read_bytes() == b"FIRST IMAGE"
        assert files_below(tmp_path / "target") == {"datalist.json", *(f"downloads/{name}" for name in FILES)}
        (server.folder / "a.nii.gz").write_bytes(b"other")
        with pytest.raises(ValueError, match=hashlib.sha256(b"OTHER").hexdigest()):
            data_set(server.url, convert).build(tmp_path / "new")

    def test_a_published_file_that_cannot_be_converted(self, server: Server, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=rf"^{server.url}/a.nii.gz: not the expected file \(JSONDecodeError"):
            data_set(server.url, mouse_ct.markups_to_csv).build(tmp_path / "target")
        assert not files_below(tmp_path / "target")

    def test_a_set_that_cannot_be_downloaded_says_how_to_get_it(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"^two: cannot be downloaded.*--source FOLDER \(origin: example.org\)$"):
            data_set().build(tmp_path / "target")
        assert not (tmp_path / "target").exists()


class TestSource:
    def test_a_folder_is_taken_and_nothing_fetched(self, server: Server, tmp_path: Path) -> None:
        path = data_set(server.url).build(tmp_path / "target", server.folder)
        (record,) = json.loads(path.read_text())["report"]
        assert record["moving"] == str(server.folder / "folder/b.nii.gz")
        assert server.asked == []
        assert files_below(tmp_path / "target") == {"datalist.json"}

    def test_a_missing_file(self, server: Server, tmp_path: Path) -> None:
        (server.folder / "folder/b.nii.gz").unlink()
        with pytest.raises(FileNotFoundError, match=rf"^{server.folder}/folder/b.nii.gz: no such file.*--source"):
            data_set().build(tmp_path / "target", server.folder)
        assert not (tmp_path / "target").exists()

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}/none: no such folder.*two images.*example.org"):
            data_set().build(tmp_path / "target", tmp_path / "none")

    def test_other_files_are_told(self, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            data_set().build(tmp_path / "target", server.folder)
            assert not caplog.messages
            (server.folder / "a.nii.gz").write_bytes(b"other")
            data_set().build(tmp_path / "target", server.folder)
        (message,) = caplog.messages
        assert "1 of 2 files differ" in message and message.endswith("a.nii.gz")


def test_landmarks_are_written_as_ras(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name in ("f", "m"):
        (tmp_path / "source" / f"{name}.nii.gz").touch()
        (tmp_path / "source" / f"{name}.csv").write_text("x,y,z,name\n1.5,-2,3,liver\n")
    record = {"fixed": "f.nii.gz", "fixed_landmarks": "f.csv", "moving": "m.nii.gz", "moving_landmarks": "m.csv"}
    path = prepare_files({"tune": [record]})(tmp_path / "source", tmp_path / "target")
    (found,) = json.loads(path.read_text())["tune"]
    with (tmp_path / "target" / found["moving_landmarks"]).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [float(row[axis]) for axis in "xyz"] == [-1.5, 2, 3]
    assert row["name"] == "liver"


def test_slicer_markups_become_csv(tmp_path: Path) -> None:
    points = [{"label": "7", "position": [11.16789, -0.5, 22.0]}, {"label": "9", "position": [1, 2, 3]}]
    (tmp_path / "a.mrk.json").write_text(json.dumps({"markups": [{"controlPoints": points}]}))
    mouse_ct.markups_to_csv(tmp_path / "a.mrk.json", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "x,y,z,name\n11.1679,-0.5000,22.0000,7\n1.0000,2.0000,3.0000,9\n"


class TestHistology:
    def test_images_are_gray_with_a_spacing_of_one(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        colors = {}
        for name in histology_2d.DATASET.checksums:
            if name.endswith(".jpg"):
                colors[name] = random.integers(0, 256, 3)
                flat = np.broadcast_to(colors[name].astype(np.uint8), (20, 30, 3))
                Image.fromarray(np.array(flat)).save(tmp_path / name, dpi=(71, 71))
            else:
                (tmp_path / name).write_text("x,y,name\n3,4,0\n")
        path = histology_2d.DATASET.prepare(tmp_path, tmp_path / "target")
        records = json.loads(path.read_text())["report"]
        assert [record["name"] for record in records] == ["rat_kidney", "lung_lesion"]
        image = itk.imread(str(path.parent / records[1]["moving"]))
        assert list(image.GetSpacing()) == [1, 1] and image.shape == (20, 30)
        expected = colors["lung_lesion_proSPC.jpg"] @ [0.299, 0.587, 0.114]
        assert np.abs(np.asarray(image) - expected).max() < 3

    def test_landmarks_that_both_show_are_numbered_from_zero(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text(",X,Y\n1,63,309\n2,77,441\n3,79,514\n")
        histology_2d.pixels_to_csv(tmp_path / "a.csv", tmp_path / "b.csv", count=2)
        assert (tmp_path / "b.csv").read_text() == "x,y,name\n63,309,0\n77,441,1\n"

    def test_nothing_is_written_if_a_file_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such file"):
            histology_2d.DATASET.prepare(tmp_path, tmp_path / "target")
        assert not (tmp_path / "target").exists()


def test_label_maps_are_listed_by_what_they_may_be_used_for(tmp_path: Path) -> None:
    (tmp_path / "maps.csv").write_text('file,use\ntrunk,free\n"heart",restricted\n')
    for name in ("trunk", "heart"):
        (tmp_path / f"{name}.nii.gz").touch()
    sections = json.loads(DATASETS["label_maps"].prepare(tmp_path, tmp_path / "target").read_text())
    assert {use: [record["name"] for record in records] for use, records in sections.items()} == {
        "free": ["trunk"],
        "copyleft": [],
        "restricted": ["heart"],
    }


class TestRegistered:
    def test_sources_are_listed_files_at_https_addresses(self) -> None:
        downloadable = {name for name, one in DATASETS.items() if one.sources}
        assert downloadable == {"hippocampus", "histology_2d", "mouse_ct"}
        for name in downloadable:
            one = DATASETS[name]
            assert set(one.sources) == set(one.checksums)
            urls = [source.url for source in one.sources.values()]
            assert len(set(urls)) == len(urls) and all(url.startswith("https://") for url in urls)

    def test_every_set_has_checksums_and_says_its_terms_and_how_to_get_it(self, tmp_path: Path) -> None:
        for name, one in DATASETS.items():
            assert one.name == name and one.license and one.title and one.origin
            assert one.checksums and all(len(digest) == 64 for digest in one.checksums.values())
            if not one.sources:
                with pytest.raises(ValueError, match=rf"^{name}: cannot be downloaded.*--source"):
                    one.build(tmp_path / "target")

    def test_checksums_are_what_sha256sum_reads(self, tmp_path: Path) -> None:
        listed = (Path(base.__file__).parent / "SHA256SUMS").read_text()
        assert len(checksums("heads")) == 9
        (tmp_path / "heads").mkdir()
        (tmp_path / "heads/ct_pitch.nii.gz").write_bytes(b"other")
        lines = "".join(line for line in listed.splitlines(keepends=True) if "heads/ct_pitch" in line)
        checked = subprocess.run(["sha256sum", "-c"], input=lines, cwd=tmp_path, capture_output=True, text=True)
        assert checked.stdout == "heads/ct_pitch.nii.gz: FAILED\n"

    def test_of_several_folders_paths_have_the_folders_name(self) -> None:
        both = checksums("templates", "heads")
        assert both["heads/ct_pitch.nii.gz"] == checksums("heads")["ct_pitch.nii.gz"]
        assert len(both) == len(checksums("templates")) + len(checksums("heads"))

    def test_the_command(self, tmp_path: Path) -> None:
        for case in ("mr_t2", "ct"):
            (tmp_path / f"{case}.nii.gz").touch()
        found = COMMANDS["prepare"]("head_ct_mr_phantom", str(tmp_path / "target"), str(tmp_path))
        assert json.loads(Path(found["datalist"]).read_text())["test"][0]["fixed"] == str(tmp_path / "mr_t2.nii.gz")
        assert found["license"].startswith("CC BY 4.0")
        with pytest.raises(ValueError, match=r"dataset must be one of .*'lung_ct'.*, got 'brain'"):
            COMMANDS["prepare"]("brain", str(tmp_path))
        for name in DATASETS:
            assert name in COMMANDS["prepare"].__doc__
