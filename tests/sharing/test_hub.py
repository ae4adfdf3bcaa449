# SPDX-License-Identifier: Apache-2.0
"""Bundles on the Hugging Face Hub, of which a small one runs here."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from regplugins.__main__ import main
from regplugins.io import sha256
from regplugins.sharing import publish

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAME = "any_modality_optimization"
TOKEN = "hf_" + "x" * 34
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository on the Hub."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"old.txt": b"of an earlier version"}
        self.tags: list[str] = []
        self.visibility = ""
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """The part of the Hub's interface (huggingface.co/docs/hub/api) that an upload and a download need."""
        if file := re.fullmatch(rf"/me/x/resolve/{COMMIT}/(.+)", path):
            return 200, self.files[file[1]]
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del self.files[line["value"]["path"]]
            result: object = {"commitUrl": f"{self.url}/me/x/commit/{COMMIT}", "commitOid": COMMIT}
        elif path.endswith("/preupload/main"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            result = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
        elif path.endswith("/repos/create"):
            self.visibility = json.loads(body)["visibility"]
            result = {"url": f"{self.url}/me/x"}
        elif path.endswith("/refs"):
            tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": COMMIT} for tag in self.tags]
            result = {"branches": [], "converts": [], "tags": tags}
        elif path.endswith(f"/tag/{COMMIT}"):
            self.tags.append(json.loads(body)["tag"])
            result = {}
        elif "/tree/" in path:
            files = [{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in self.files.items()]
            result = files
        elif path.endswith("/validate-yaml"):
            result = {"errors": [], "warnings": []}
        elif re.search(r"/api/models/me/x(/revision/.+)?$", path):
            result = {"id": "me/x", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
        else:
            return 404, f"{method} {path}".encode()
        return 200, json.dumps(result).encode()


class Handler(BaseHTTPRequestHandler):
    def __init__(self, hub: Hub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, data = self.hub.answer(self.command, self.path.split("?")[0], body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_HEAD = serve  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, hub)) as service:
        hub.url = f"http://127.0.0.1:{service.server_port}"
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield hub
        service.shutdown()
        thread.join()


@pytest.fixture
def ours(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub to which this process publishes."""
    api = partial(huggingface_hub.HfApi, endpoint=hub.url)
    monkeypatch.setattr("regplugins.sharing.hub.huggingface_hub.HfApi", api)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.mark.slow
def test_what_is_published_is_what_monai_downloads(ours, tmp_path, capsys):
    main(["publish", str(BUNDLES / NAME), "me/x", "--json"])
    told = json.loads(capsys.readouterr().out)
    metadata = json.loads((BUNDLES / NAME / "configs/metadata.json").read_text())
    version = metadata["version"]
    assert ours.tags == [version]
    assert ours.visibility == "private"
    assert told["url"] == f"{ours.url}/me/x/commit/{COMMIT}"
    assert told["files"].keys() == ours.files.keys()  # the earlier version's file is gone

    options = {"name": NAME, "source": "huggingface_hub", "repo": "me/x", "version": version, "bundle_dir": tmp_path}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "HF_ENDPOINT": ours.url, "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "monai.bundle", "download", *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in metadata["weights"] or ["LICENSE"]:
        assert (tmp_path / NAME / name).read_bytes() == (BUNDLES / NAME / name).read_bytes()

    with pytest.raises(SystemExit, match=f"me/x: version {version} is there already"):
        main(["publish", str(BUNDLES / NAME), "me/x"])


def test_dry_run_names_what_would_go_up():
    bundle = BUNDLES / NAME
    told = publish(bundle, "me/x", dry_run=True)
    assert told["url"] is None
    assert "docs/README.md" in told["files"]
    for name in ("LICENSE", "docs/data_license.txt", "configs/inference.json"):
        assert told["files"][name] == sha256(bundle / name)
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert {name for name in told["files"] if name.startswith("models/")} == set(metadata["weights"])
    assert not any(name.startswith(("output", "eval")) for name in told["files"])


def test_first_page_does_not_call_weights_free(ours):
    """Its header is what the Hub files a repository by."""
    publish(BUNDLES / NAME, "me/x", token=TOKEN)
    _, header, page = ours.files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "other"
    assert yaml.safe_load(header)["license_link"] in ours.files
    assert f"--repo me/x --version {ours.tags[0]}" in page


@pytest.mark.parametrize("repository", ["x", "me/", "/x", "me/x/y"])
def test_no_name_of_a_repository(repository):
    with pytest.raises(ValueError, match="owner/name"):
        publish(BUNDLES / NAME, repository, dry_run=True)


def test_spoilt_weights_do_not_go_up(tmp_path, hub):
    copy = shutil.copytree(BUNDLES / "hippocampus_mr_multires_fcn", tmp_path / "spoilt")
    (copy / "models/model.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="does not load"):
        publish(copy, "me/x")
    assert list(hub.files) == ["old.txt"]
