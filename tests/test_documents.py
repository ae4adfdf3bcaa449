# SPDX-License-Identifier: Apache-2.0
"""Documents: their links, sizes and commands. Blocks without a line ``# needs ...`` are run as they stand."""

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest

from regplugins.__main__ import main
from regplugins.commands import COMMANDS
from tests.bundles.conftest import run_monai_bundle

ROOT = Path(__file__).resolve().parents[1]
CARDS = sorted(ROOT.glob("bundles/*/docs/README.md"))
GUIDE = sorted(ROOT.glob("docs/guide/*.md"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *CARDS]
EXAMPLE = "hippocampus_mr_multires_fcn"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def runs(self) -> bool:
        """Code that needs nothing but the repository and a pair of images."""
        return self.language in ("bash", "python") and "# needs" not in "".join(self.text.splitlines()[:2])


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """All blocks, those within lists without their indentation."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def lines(block: Block) -> list[list[str]]:
    """Words of each command line of a block; the script ``regplugins`` is called as a module."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^regplugins ", "python -m regplugins ", block.text, flags=re.MULTILINE))
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def commands(page: Path) -> list[list[str]]:
    """Words of every command line of a page."""
    return [words for block in blocks(page) if block.language == "bash" for words in lines(block)]


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def options(words: list[str]) -> list[str]:
    return [word[2:].split("=")[0] for word in words if word.startswith("--")]


def bundle_of(page: Path, configs: list[str]) -> Path:
    """The folder in which a command's relative configs lie: the bundle that the page is about."""
    if configs[0].startswith("bundles/"):
        return ROOT
    if page in CARDS:
        return page.parents[1]
    if (ROOT / "bundles" / page.stem).is_dir():
        return ROOT / "bundles" / page.stem
    named = re.search(r"bundles/(\w+)/docs/README", page.read_text(encoding="utf-8"))
    return ROOT / "bundles" / (named[1] if named and page not in GUIDE else EXAMPLE)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
class TestPage:
    def test_lines_end_at_120_characters(self, page):
        long = [line for line in prose(page).splitlines() if len(line) > 120 and not line.startswith(("|", "!["))]
        assert not [line for line in long if max(map(len, line.split())) < 60], "wrap all but tables and links"

    def test_links_lead_somewhere(self, page):
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if not target.startswith("http"):
                path, _, anchor = target.partition("#")
                file = (page.parent / path).resolve() if path else page
                assert file.exists(), target
                assert not anchor or anchor in anchors(file), target

    def test_scripts_and_commands_have_the_options_that_they_are_given(self, page):
        for words in commands(page):
            scripts = [word for word in words if re.fullmatch(r"(tests|docs)/[\w/]+\.py", word)]
            for script in scripts:
                source = "".join(
                    file.read_text(encoding="utf-8")
                    for file in {ROOT / script, ROOT / "tests/benchmarks/side_by_side.py"}
                )
                assert all(re.search(rf"\b{option}\b", source) for option in options(words)), words
            if words[:3] == ["python", "-m", "regplugins"] and words[3] != "--help":
                parameters = inspect.signature(COMMANDS[words[3]]).parameters
                free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
                assert free or set(options(words)) <= set(parameters) | {"json"}, words

    def test_runs_of_a_bundle_name_its_configs_and_keys(self, page):
        for words in commands(page):
            if "monai.bundle" not in words or "run" not in words or "knee" in "".join(words):
                continue
            given = words[words.index("--config_file") + 1]
            configs = ast.literal_eval(given) if given.startswith("[") else [given]
            folder = bundle_of(page, configs)
            keys = {key for config in configs for key in json.loads((folder / config).read_text(encoding="utf-8"))}
            asked = {option.split("#")[0] for option in options(words[words.index("run") :])}
            assert asked <= keys | {"config_file", "bundle_root"}, words


class TestSizes:
    @pytest.mark.parametrize("page", CARDS, ids=name_of)
    def test_a_card_is_one_page(self, page):
        assert len(page.read_text(encoding="utf-8").split()) <= 900

    @pytest.mark.parametrize("page", GUIDE, ids=name_of)
    def test_a_page_of_the_guide_is_one_task(self, page):
        assert len(page.read_text(encoding="utf-8").split()) <= 600

    def test_all_pages_can_be_read_in_an_afternoon(self):
        assert sum(len(page.read_text(encoding="utf-8").split()) for page in PAGES) <= 25_000


def test_pictures_and_tables_are_shown_somewhere():
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    }
    files = [*ROOT.glob("docs/images/*"), *ROOT.glob("docs/results/data/*")]
    assert not [name_of(file) for file in files if file not in linked]


@pytest.mark.parametrize("page", CARDS, ids=name_of)
def test_a_card_runs_its_sample_which_every_bundle_is_tested_with(page):
    run = [block.text for block in blocks(page) if block.runs]
    assert run == ["python -m monai.bundle run --config_file configs/inference.json\n"]


def test_the_first_page_runs_what_the_guide_runs():
    page = ROOT / "README.md"
    run = [words for block in blocks(page) if block.language == "bash" and block.runs for words in lines(block)]
    assert run
    assert all(words in commands(ROOT / "docs/guide/register.md") for words in run)


def run_line(words: list[str], folder: Path) -> None:
    """Run a command line in a folder: those of regplugins and MONAI without the price of a new process."""
    if words[:2] == ["python", "-m"] and words[2] in ("regplugins", "monai.bundle"):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            if words[2] == "regplugins":
                main(words[3:])
            else:
                run_monai_bundle(patch, words[3:])
        return
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable if words[0] == "python" else words[0], *words[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the guide assumes it: bundles, a pair with labels and landmarks, and results of a registration."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in (EXAMPLE, "any_modality_optimization"):
        skip = shutil.ignore_patterns("output", "eval", "data")
        shutil.copytree(ROOT / "bundles" / name, folder / "bundles" / name, ignore=skip)
    sample = folder / "bundles" / EXAMPLE / "sample"
    for copy in ("F", "atlas"):
        shutil.copy(sample / "fixed.nii.gz", folder / f"{copy}.nii.gz")
    for copy in ("M", "anna", "ben"):
        shutil.copy(sample / "moving.nii.gz", folder / f"{copy}.nii.gz")
    for copy in ("L", "anna_label"):
        shutil.copy(sample / "moving_label.nii.gz", folder / f"{copy}.nii.gz")
    fixed = nib.load(sample / "fixed.nii.gz")
    values = fixed.get_fdata()
    label = (values > np.percentile(values, 90)).astype(np.uint8)
    nib.save(nib.Nifti1Image(label, fixed.affine), folder / "FL.nii.gz")
    middle = fixed.affine[:3] @ [*((np.array(fixed.shape) - 1) / 2), 1]
    (folder / "points.csv").write_text("x,y,z\n" + ",".join(map(str, middle)) + "\n")
    (records,) = (block.text for block in blocks(ROOT / "docs/guide/batch.md") if block.language == "json")
    (folder / "pairs.json").write_text(records)
    register = f"python -m regplugins register F.nii.gz M.nii.gz -o O --bundle bundles/{EXAMPLE}"
    run_line(f"{register} --moving_label L.nii.gz".split(), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in GUIDE if any(block.runs for block in blocks(page))], ids=name_of)
def test_blocks_of_the_guide_run_as_they_stand(page, workplace, tmp_path):
    folder = shutil.copytree(workplace, tmp_path / "here")
    for block in blocks(page):
        if block.language == "bash" and block.runs:
            for words in lines(block):
                run_line(words, folder)
        elif block.language == "python" and block.runs:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                exec(compile(block.text, name_of(page), "exec"), {"__name__": "__main__"})
