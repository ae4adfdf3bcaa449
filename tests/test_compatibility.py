# SPDX-License-Identifier: Apache-2.0
"""A bundle made for another minor version of the package is refused, wherever it comes in."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

import regplugins
from regplugins.__main__ import main
from regplugins.compatibility import check_version
from regplugins.sharing import pack, unpack
from tests.bundles.conftest import cause_of, run_bundle

ROOT = Path(__file__).resolve().parents[1]
NAME = "hippocampus_mr_multires_fcn"
REFUSED = f"{NAME} was made for regplugins 0.1.0, installed is {regplugins.__version__}: "
ADVICE = "pip install 'regplugins==0.1.*'"


@pytest.fixture
def old_bundle(tmp_path: Path) -> Path:
    """A bundle of version 0.1.0."""
    bundle = shutil.copytree(ROOT / "bundles" / NAME, tmp_path / NAME)
    path = bundle / "configs/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["required_packages_version"]["regplugins"] = metadata["version"] = "0.1.0"
    path.write_text(json.dumps(metadata))
    return bundle


def test_unpack_refuses_a_zip_of_an_older_version(old_bundle, tmp_path):
    archive = tmp_path / f"{NAME}_v0.1.0.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in old_bundle.rglob("*.*"):
            if path.name != "bundle.json":
                file.write(path, path.relative_to(tmp_path))
    with pytest.raises(ValueError, match=f"^{re.escape(REFUSED)}.*{re.escape(ADVICE)}$"):
        unpack(str(archive), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_pack_refuses_it(old_bundle, tmp_path):
    with pytest.raises(ValueError, match=re.escape(REFUSED)):
        pack(old_bundle, tmp_path / "out")


def test_register_refuses_it(old_bundle, tmp_path):
    with pytest.raises(SystemExit) as error:
        main(["register", "--bundle", str(old_bundle), "-o", str(tmp_path / "out")])
    assert str(error.value).startswith(f"error: {REFUSED}")
    assert not (tmp_path / "out").exists()


def test_a_run_refuses_it(old_bundle, tmp_path):
    message = cause_of(run_bundle, old_bundle, "inference", output_dir=str(tmp_path / "out"))
    assert message.startswith(REFUSED) and message.endswith(ADVICE)
    assert not (tmp_path / "out").exists()


def test_configurations_that_do_not_tell_their_bundle_are_from_before(tmp_path):
    """As those of version 0.1.0 begin."""
    overlay = tmp_path / "old.json"
    overlay.write_text(json.dumps({"initialize": ["$regplugins.engines.begin_run(@seed, @verbose, @device)"]}))
    with pytest.raises(RuntimeError) as error:
        run_bundle(ROOT / "bundles" / NAME, "inference", str(overlay), output_dir=str(tmp_path / "out"))
    assert "was made for regplugins 0.1, installed is" in str(error.value.__cause__)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("required", ["0.2.0", "0.2.7", "0.2"])
def test_every_patch_of_one_minor_version_fits(monkeypatch, required):
    monkeypatch.setattr("regplugins.compatibility.__version__", "0.2.1.dev0")
    check_version("a bundle", required)


@pytest.mark.parametrize("required", ["0.1.9", "0.3.0", "1.2.0"])
def test_other_minor_versions_do_not(monkeypatch, required):
    monkeypatch.setattr("regplugins.compatibility.__version__", "0.2.1.dev0")
    with pytest.raises(ValueError, match=re.escape(f"regplugins {required}, installed is 0.2.1.dev0")):
        check_version("a bundle", required)
