# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's server with our app and with its own one for bundles, over REST.

``make test-label`` installs the server in an environment of its own and runs these; ``REGPLUGINS_MONAILABEL`` names the
Python of one that is there. The propagated label's Dice is printed (``-s``).
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.bundles.cases import CASES
from tests.label.studies import ANNOTATED, BUNDLE, NEW, ROOT, dice, write_studies

PYTHON = os.environ.get("REGPLUGINS_MONAILABEL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="REGPLUGINS_MONAILABEL names no Python with monailabel; make test-label"),
]
MODEL = BUNDLE.name


class Server:
    """A running server."""

    def __init__(self, url: str, studies: Path, truth: Path) -> None:
        self.url = url
        self.studies = studies
        self.truth = truth

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return json.loads(response.read())

    def post(self, path: str, content: bytes, kind: str) -> bytes:
        request = urllib.request.Request(self.url + path, data=content, headers={"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=600) as response:
            return bytes(response.read())

    def infer(self, image: str, output: str = "image", model: str = MODEL, /, **params: Any) -> bytes:
        form = urllib.parse.urlencode({"params": json.dumps(params)}).encode()
        query = urllib.parse.urlencode({"image": image, "output": output})
        return self.post(f"/infer/{model}?{query}", form, "application/x-www-form-urlencoded")

    def do(self, path: str, **params: Any) -> Any:
        return json.loads(self.post(path, json.dumps(params).encode(), "application/json"))


def stubs() -> str:
    """A folder with what the server imports and need not have."""
    there = subprocess.run([str(PYTHON), "-c", "import torchvision"], capture_output=True, check=False).returncode == 0
    return "" if there else str(Path(__file__).parent / "stubs")


@contextmanager
def running(folder: Path, *words: str) -> Iterator[Server]:
    """A server of an app on a free port of this machine, without a GPU."""
    studies, truth = folder / "studies", folder / "truth.nii.gz"
    write_studies(studies, truth)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PYTHON), "-m", "monailabel.main", "start_server", "--studies", str(studies), *words]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HOME": str(folder), "PYTHONPATH": stubs()}
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        server = Server(f"http://127.0.0.1:{port}", studies, truth)
        for _ in range(240):
            if process.poll() is not None:
                break
            try:
                server.get("/info/")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With our app and every bundle."""
    folder = tmp_path_factory.mktemp("ours")
    shutil.copytree(ROOT / "regplugins/label/app", folder / "app", ignore=shutil.ignore_patterns("logs", "model"))
    names = ["--conf", "labels", json.dumps({"anterior": 1, "posterior": 2})]
    with running(folder, "--app", str(folder / "app"), "--conf", "bundles", str(ROOT / "bundles"), *names) as server:
        yield server


def saved(content: bytes, path: Path) -> Path:
    path.write_bytes(content)
    return path


def check_label(label: Path, server: Server, say: str, cases: Sequence[str] = ANNOTATED) -> None:
    """On the opened image's grid, uint8, and nearer the true label than that of any of the cases is as it lies."""
    ours, image = nib.load(label), nib.load(server.studies / f"{NEW}.nii.gz")
    assert ours.get_data_dtype() == np.uint8 and ours.shape == image.shape
    np.testing.assert_allclose(ours.affine, image.affine, atol=1e-4)
    before = [dice(server.studies / f"labels/final/{name}.nii.gz", server.truth) for name in cases]
    after = dice(label, server.truth)
    print(f"\n{say}: Dice {after:.3f}, before registration {min(before):.3f} to {max(before):.3f}")
    assert after > max(before)


class TestOurApp:
    def test_every_bundle_that_registers_is_a_model(self, server):
        info = server.get("/info/")
        bundles = {path.parents[1].name for path in (ROOT / "bundles").glob("*/configs/metadata.json")}
        assert set(info["models"]) == bundles - {"head_ct_mr_modality"}
        assert info["labels"] == ["anterior", "posterior"]
        assert MODEL in info["trainers"] and "any_modality_optimization" not in info["trainers"]

    @pytest.mark.parametrize("asked", [{}, {"moving": "case_b"}, {"moving": "all"}, {"count": 3, "fusion": "majority"}])
    def test_infer(self, server, tmp_path, asked):
        label = saved(server.infer(NEW, device="cuda", **asked), tmp_path / "label.nii.gz")
        cases = [name for name in ANNOTATED if name == asked.get("moving", name)] or ANNOTATED
        check_label(label, server, f"our app, {asked or 'nearest'}", cases)

    def test_what_is_known_of_it(self, server):
        known = json.loads(server.infer(NEW, "json", moving=["case_a", "case_d"], return_transform=True))
        assert [case["name"] for case in known["cases"]] == ["case_a", "case_d"]
        assert all(case["transform"] for case in known["cases"])

    def test_the_message_reaches_the_client(self, server):
        with pytest.raises(urllib.error.HTTPError) as error:
            server.infer(NEW, fusion="staple")
        assert "fusion must be one of" in json.loads(error.value.read())["detail"]

    def test_its_log_goes_on(self, server):
        """Bundles have a logging.conf each, which would be the server's from the first request on."""
        log = server.studies.parent / "app/logs/app.log"
        before = log.read_text(errors="replace").count("Infer Request")
        for _ in range(2):
            server.infer(NEW)
        assert log.read_text(errors="replace").count("Infer Request") == before + 2

    def test_batch_infer(self, server):
        found = server.do(f"/batch/infer/{MODEL}?images=unlabeled&run_sync=true")
        assert list(found) == [NEW]
        check_label(server.studies / f"labels/original/{NEW}.nii.gz", server, "our app, batch")

    def test_train(self, server, tmp_path):
        """The next request uses the trained weights, which are better after a hundred steps than before."""
        few = {"max_epochs": 2, "pairs_per_epoch": 100, "val_interval": 2}
        result = server.do(f"/train/{MODEL}?run_sync=true", **few)
        assert len(result["validation"]) == 2
        label = saved(server.infer(NEW, moving="case_a"), tmp_path / "label.nii.gz")
        check_label(label, server, "our app, trained a little, case_a", ["case_a"])


def test_cases_of_a_dicomweb_datastore(tmp_path):
    """A segmentation lies there as a series of its own, and is fetched when it is asked for."""
    image, label = (BUNDLE / f"sample/{name}.nii.gz" for name in ("moving", "moving_label"))
    words = [str(PYTHON), str(Path(__file__).with_name("dicomweb.py")), str(tmp_path), str(image), str(label)]
    environment = {**os.environ, "PYTHONPATH": stubs()}
    done = subprocess.run(words, capture_output=True, encoding="utf-8", env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ((name, *files),) = json.loads(done.stdout.splitlines()[-1])
    assert name == "1.2.3.4"
    assert [Path(file).read_bytes() for file in files] == [image.read_bytes(), label.read_bytes()]


def test_the_unchanged_app_for_bundles(tmp_path):
    """Laid out by ``python -m regplugins label``: one with an annotated case, all others with their samples."""
    words = [str(PYTHON), "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
    subprocess.run([*words, "--output", str(tmp_path / "apps")], check=True, capture_output=True, cwd=tmp_path)
    write_studies(tmp_path / "atlas", tmp_path / "unused.nii.gz")
    atlases = {case.name: ROOT / "bundles" / case.name / "sample/moving.nii.gz" for case in CASES}
    labels = {name: path.with_name("moving_label.nii.gz") for name, path in atlases.items()}
    atlases[MODEL] = tmp_path / "atlas/case_a.nii.gz"
    labels[MODEL] = tmp_path / "atlas/labels/final/case_a.nii.gz"
    for name, atlas in atlases.items():
        words = [str(PYTHON), "-m", "regplugins", "label", str(ROOT / "bundles" / name)]
        words += ["--output_dir", str(tmp_path / "apps/monaibundle/model")]
        words += ["--moving", str(atlas), "--moving_label", str(labels[name])]
        subprocess.run(words, check=True, capture_output=True)
    (tmp_path / "studies").mkdir()
    for name in set(atlases) - {MODEL}:  # before the server starts, which sees later ones late
        shutil.copyfile(ROOT / "bundles" / name / "sample/fixed.nii.gz", tmp_path / f"studies/{name}.nii.gz")
    models = ["--conf", "models", ",".join(atlases), "--conf", "zoo_source", "ngc"]
    with running(tmp_path, "--app", str(tmp_path / "apps/monaibundle"), *models) as server:
        assert set(server.get("/info/")["models"]) == set(atlases)
        label = saved(server.infer(NEW, device="cpu"), tmp_path / "label.nii.gz")
        check_label(label, server, "app for bundles, case_a", ["case_a"])
        assert server.infer(NEW, device="cpu", moving="/etc/passwd") == server.infer(NEW, device="cpu")
        for name in set(atlases) - {MODEL}:
            found = nib.load(saved(server.infer(name, "image", name, device="cpu"), tmp_path / f"{name}_label.nii.gz"))
            opened = nib.load(server.studies / f"{name}.nii.gz")
            assert found.get_data_dtype() == np.uint8 and found.shape == opened.shape, name
            np.testing.assert_allclose(found.affine, opened.affine, atol=1e-4)
            assert set(np.unique(found.dataobj)) == set(np.unique(nib.load(labels[name]).dataobj)), name
