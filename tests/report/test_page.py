# SPDX-License-Identifier: Apache-2.0
"""Page of many pairs, read by a parser and, if there is one, a browser."""

import csv
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from regplugins.report import write_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROWS = [
    {"name": "pair 10 <b>", "dice_mean_after": "0.75", "hd95_mean_after": "", "seconds": "1.5"},
    {"name": "pair 2", "dice_mean_after": "0.25", "hd95_mean_after": "", "seconds": "12"},
    {"name": "pair 1", "dice_mean_after": "", "hd95_mean_after": "", "seconds": "3"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with (tmp_path / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    (tmp_path / "pair 2").mkdir()
    Image.new("RGB", (3000, 1000), (250, 10, 10)).save(tmp_path / "pair 2" / "report.png")
    return tmp_path


class Cells(HTMLParser):
    """The text of each cell of a table, and the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            self.pictures.append(dict(attributes)["src"] or "")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_table_holds_what_was_measured(folder: Path) -> None:
    page = write_page(folder)
    cells = Cells()
    cells.feed(page.read_text(encoding="utf-8"))
    heading, *rows, foot = cells.rows
    assert heading == ["pair", "", "dice mean after", "secondss"]  # no column in which nothing was measured
    assert [row[0] for row in rows] == [row["name"] for row in ROWS]
    assert [row[2] for row in rows] == ["0.75", "0.25", ""]
    assert foot[2].startswith("0.5") and "0.35" in foot[2]  # sd of 0.75 and 0.25
    assert foot[2].endswith("n = 2") and not re.search(r"n = \d", foot[3])  # one of three pairs has no Dice
    assert len(cells.pictures) == 1


def test_pairs_that_failed_say_so(tmp_path: Path) -> None:
    rows = [
        {"name": "one", "status": "done", "error": "", "seconds": "1.5"},
        {"name": "two", "status": "failed", "error": "two.nii: <constant>", "seconds": ""},
    ]
    with (tmp_path / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert "2 pairs, 1 not registered" in page
    cells = Cells()
    cells.feed(page)
    assert [row[0] for row in cells.rows[1:3]] == ["one", "twofailed: two.nii: <constant>"]


def test_headings_have_units(folder: Path) -> None:
    columns = {
        "hd95_mean_after": "mm",
        "endpoint_error_p95_before": "mm",
        "backward_tre_max_after": "mm",
        "cycle_consistency_mean": "mm",
        "mutual_information_after": "nat",
        "seconds_network": "s",
        "dice_mean_after": "",
        "affine_rotation_degrees": "",
    }
    (folder / "summary.csv").write_text(f"name,{','.join(columns)}\npair,1,2,3,4,5,6,7,8\n")
    headings = re.findall(
        r"<button>([^<]+)(?:<br><small>(\w+)</small>)?</button>", write_page(folder).read_text(encoding="utf-8")
    )
    assert dict(headings[1:]) == {column.replace("_", " "): unit for column, unit in columns.items()}


def test_pictures_link_to_the_big_ones(folder: Path) -> None:
    (folder / "pair 2").rename(folder / "a#1 ?")
    table = (folder / "summary.csv").read_text(encoding="utf-8").replace("pair 2", "a#1 ?")
    (folder / "summary.csv").write_text(table)
    (link,) = re.findall(r'href="([^"]+)"', write_page(folder).read_text(encoding="utf-8"))
    assert (folder / unquote(link)).is_file() and "#" not in link and "?" not in link


def test_a_single_pair_has_its_picture_beside_the_page(folder: Path) -> None:
    (folder / "summary.csv").write_text("name,seconds\npair,3\n")
    (folder / "pair 2" / "report.png").rename(folder / "report.png")
    assert 'href="report.png"' in write_page(folder).read_text(encoding="utf-8")


def test_page_needs_no_other_file(folder: Path) -> None:
    text = write_page(folder).read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    cells = Cells()
    cells.feed(text)
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in cells.pictures)
    assert len(text) < 100_000  # a 3000 pixel wide picture became a thumbnail


def test_no_table_or_no_rows(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"summary\.csv"):
        write_page(tmp_path)
    (tmp_path / "summary.csv").write_text("name,seconds\n")
    with pytest.raises(ValueError, match="a row a pair"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.slow
def test_headings_sort(folder: Path) -> None:
    page = write_page(folder)
    orders = []
    for clicks in ([0], [1], [1, 1], [2]):
        script = "".join(f"document.querySelectorAll('thead button')[{column}].click();" for column in clicks)
        probe = folder / "probe.html"
        probe.write_text(
            page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8"
        )
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
        result = subprocess.run(
            [str(BROWSER), *options, "--dump-dom", probe.as_uri()], capture_output=True, encoding="utf-8", timeout=120
        )
        cells = Cells()
        cells.feed(result.stdout)
        orders.append([row[0] for row in cells.rows[1:4]])
    one, two, ten = "pair 1", "pair 2", "pair 10 <b>"
    assert orders == [[one, two, ten], [two, ten, one], [ten, two, one], [ten, one, two]]
