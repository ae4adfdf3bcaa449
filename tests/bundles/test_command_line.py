# SPDX-License-Identifier: Apache-2.0
"""A registration by the command, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bundles.cases import HIPPOCAMPUS, BundleCase
from tests.bundles.conftest import ROOT

pytestmark = pytest.mark.slow

# Each takes 10 ms to a second. MONAI imports some of them; those are not counted.
HEAVY = {"itk", "SimpleITK", "matplotlib.pyplot", "sklearn", "pandas", "onnx", "onnxruntime", "tensorboard", "tensorrt"}
HEAVY |= {"huggingface_hub", "torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.tensorboard"}
HEAVY |= {"regplugins.label", "regplugins.datasets"}
_CODE = """
import sys, monai
before = set(sys.modules)
from regplugins.__main__ import main
main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    print(*(set(sys.modules) - before), sep="\\n", file=file)
"""


@pytest.fixture(scope="module")
def case() -> BundleCase:
    return HIPPOCAMPUS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("command")


@pytest.fixture(scope="module")
def done(bundle: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    words = ["register", "--bundle", str(bundle), "--output_dir", str(folder / "o"), "--json"]
    command = [sys.executable, "-c", _CODE, str(folder / "modules"), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)


def test_imports_nothing_heavy_beyond_monai(done, folder):
    modules = set((folder / "modules").read_text().split())
    assert "regplugins.transforms.save" in modules
    assert [name for name in sorted(modules) if name.startswith(tuple(f"{heavy}." for heavy in HEAVY))] == []
    assert modules.isdisjoint(HEAVY)


def test_does_as_monais_command(done, folder, registered):
    ours, theirs = (nib.load(path / "warped.nii.gz").get_fdata() for path in (folder / "o", registered))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_says_little(done, folder):
    """The task, the result, and its place."""
    messages = done.stderr.splitlines()
    report = json.loads((folder / "o/report.json").read_text())
    assert json.loads(done.stdout)["output_dir"] == str(folder / "o")
    words = ["registering", "before", "NCC", "mutual", "rotation", "translation", "folding", "time", "results:"]
    assert [line.split()[0] for line in messages] == words
    ncc = report["similarity"]["ncc"]
    assert messages[2].split() == ["NCC", f"{ncc['before']:.3f}", f"{ncc['after']:.3f}"]
