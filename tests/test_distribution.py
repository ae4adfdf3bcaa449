# SPDX-License-Identifier: Apache-2.0
"""The distributed files: wheel, source archive, and the index of models."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import regplugins
from regplugins.api import DEFAULT_BUNDLE
from regplugins.sharing import bundle_files

ROOT = Path(__file__).resolve().parents[1]
NAME = "hippocampus_mr_multires_fcn"
model_index = runpy.run_path(str(ROOT / "docs/model_index.py"))["index"]


def call(*command: str | Path, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and source archive, the wheel built from the unpacked source archive."""
    folder = tmp_path_factory.mktemp("distributions")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    call(*build, "--target", "sdist", cwd=ROOT)
    (source,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(source, folder / "source")
    (unpacked,) = (folder / "source").iterdir()
    call(*build, "--target", "wheel", cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return {"source": source, "wheel": wheel}


@pytest.mark.slow
class TestDistributions:
    def test_the_wheel_holds_the_package_and_nothing_else(self, distributions):
        with zipfile.ZipFile(distributions["wheel"]) as archive:
            names = [name for name in archive.namelist() if ".dist-info/" not in name]
        suffixes = (".py", ".json", ".html", ".typed")
        kept = {p.relative_to(ROOT).as_posix() for p in (ROOT / "regplugins").rglob("*") if p.suffix in suffixes}
        assert set(names) >= kept
        assert {name.split("/")[0] for name in names} == {"regplugins"}
        assert distributions["wheel"].name == f"regplugins-{regplugins.__version__}-py3-none-any.whl"

    def test_the_source_archive_holds_what_is_built_and_tested_and_one_bundle(self, distributions):
        with tarfile.open(distributions["source"]) as archive:
            names = [name.split("/")[1:] for name in archive.getnames()]
        tops = {name[0] for name in names}
        assert tops >= {"regplugins", "tests", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
        assert not tops & {"output", ".venv"}
        assert {name[1] for name in names if name[0] == "bundles"} == {DEFAULT_BUNDLE}

    def test_the_wheel_holds_the_default_bundle_and_its_terms(self, distributions):
        with zipfile.ZipFile(distributions["wheel"]) as archive:
            home = f"regplugins/bundles/{DEFAULT_BUNDLE}"
            found = {name.removeprefix(f"{home}/"): archive.read(name) for name in archive.namelist() if home in name}
        bundle = ROOT / "bundles" / DEFAULT_BUNDLE
        kept = {name: (bundle / name).read_bytes() for name in (*bundle_files(bundle), "bundle.json")}
        assert found == kept
        assert {"LICENSE", "sample/TERMS.txt", "docs/data_license.txt"} <= kept.keys()

    def test_the_installed_wheel_registers(self, distributions, tmp_path):
        """In an environment whose other packages are this one's, and whose regplugins is the wheel's."""
        venv.create(tmp_path / "env")
        python = tmp_path / "env/bin/python"
        site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
        call(*pip, distributions["wheel"])
        # A .pth file in a folder that a .pth file names is not read, so that an editable regplugins stays out.
        (Path(site) / "others.pth").write_text(sysconfig.get_path("purelib"))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        where = call(python, "-c", "import regplugins; print(regplugins.__file__)", cwd=tmp_path, env=environment)
        assert Path(where.strip()).is_relative_to(site)
        # The bundle in the wheel registers two scans without a repository.
        scans = [ROOT / f"bundles/{NAME}/sample/{side}.nii.gz" for side in ("fixed", "moving")]
        words = ["register", *scans, "-o", "out", "--preset", "same_modality", "--levels", "[[8,1]]"]
        call(tmp_path / "env/bin/regplugins", *words, cwd=tmp_path, env=environment)
        report = json.loads((tmp_path / "out/report.json").read_text())
        assert report["coverage_percent"]["after"] > 50
        assert report["versions"]["regplugins"] == regplugins.__version__


def test_the_index_of_models_is_of_these_bundles():
    assert (ROOT / "docs/models.md").read_text() == model_index(ROOT / "bundles"), "run python docs/model_index.py"


def test_the_index_follows_the_metadata(tmp_path):
    copy = shutil.copytree(ROOT / "bundles" / NAME, tmp_path / NAME)
    metadata = json.loads((copy / "configs/metadata.json").read_text())
    metadata["version"] = "7.8.9"
    del metadata["weights"]["models/model_weak.pt"]
    (copy / "configs/metadata.json").write_text(json.dumps(metadata))
    page = model_index(tmp_path)
    assert f"|[`{NAME}`](../bundles/{NAME}/docs/README.md)|7.8.9|" in page
    assert "model.pt" in page
    assert "model_weak.pt" not in page
