# SPDX-License-Identifier: Apache-2.0
"""Records of pairs and images, and refused input."""

import json
import re
from pathlib import Path

import pytest

from regplugins.data import image_records, ordered_pairs, pair_records, read_datalist
from regplugins.data.records import OUTPUTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    for name in ("fixed", "moving", "moving_label"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"x")
    return tmp_path


def nothing():
    return {"fixed": None, "moving": None, "moving_label": None}


def test_sample_is_the_default(folder):
    (record,) = pair_records(nothing(), None, folder)
    assert record == {key: str(folder / f"{key}.nii.gz") for key in ("fixed", "moving", "moving_label")}


def test_given_pair_knows_nothing_of_the_sample(folder):
    fixed, moving = str(folder / "moving.nii.gz"), str(folder / "fixed.nii.gz")
    assert pair_records(nothing() | {"fixed": fixed, "moving": moving}, None, folder) == [
        {"fixed": fixed, "moving": moving}
    ]


def test_datalist_names_its_pairs_and_is_relative_to_its_folder(folder):
    path = folder / "pairs.json"
    pair = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz", "moving_label": None}
    path.write_text(json.dumps([pair, pair | {"name": "second"}]))
    records = pair_records(nothing(), path, folder)
    assert [record["name"] for record in records] == ["0", "second"]
    assert records[0]["fixed"] == str(folder / "fixed.nii.gz")
    assert "moving_label" not in records[0]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"fixed": "fixed.nii.gz"}, ValueError, "no moving"),
        ({"fixed": "fixed.nii.gz", "moving": "absent.nii.gz"}, FileNotFoundError, r"absent\.nii\.gz"),
    ],
)
def test_half_or_missing_pairs_are_refused(folder, given, error, message):
    with pytest.raises(error, match=message):
        pair_records(nothing() | {key: str(folder / name) for key, name in given.items()}, None, folder)


PAIR = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "non-empty list"),
        ('{"training": []}', "non-empty list"),
        (json.dumps([PAIR | {"name": "a"}, PAIR | {"name": "a"}]), "'a' is given twice"),
        (
            json.dumps([PAIR | {"name": "A"}, PAIR | {"name": "a"}]),
            "'A' is given twice, or differs from another in case",
        ),
        (json.dumps([PAIR | {"name": "../a"}]), "no plain folder name"),
        (json.dumps([PAIR | {"name": "a\nb"}]), r"the name 'a\\nb' is no plain folder name"),
        (json.dumps([PAIR | {"name": "a\x1b[31m"}]), r"the name 'a\\x1b\[31m' is no plain folder name"),
        (json.dumps([PAIR | {"name": "ü" * 128}]), "the name 'ü{30}...' is longer than 255 bytes"),
        (json.dumps([PAIR | {"name": ".lock"}]), "the name '.lock' begins with a dot"),
        (json.dumps([PAIR | {"name": "Summary.CSV"}]), "the name 'Summary.CSV' is that of a file of results"),
        (json.dumps([PAIR | {"fixed": 3}]), "pairs.json: record 0: fixed must be a path, got 3"),
        (json.dumps([PAIR, PAIR | {"moving": ["a"]}]), r"pairs.json: record 1: moving must be a path, got \['a'\]"),
        ("[" * 100_000, r"pairs.json: not JSON that can be read \(nested too deeply\)"),
        (json.dumps([PAIR | {"fixd_label": "x"}]), "fixd_label"),
        (json.dumps([{"fixed": "fixed.nii.gz"}]), "pair '0': no moving"),
    ],
)
def test_bad_datalists_are_refused(folder, content, message):
    path = folder / "pairs.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        pair_records(nothing(), path, folder)


def test_no_pair_is_called_like_what_lies_beside_its_folder(folder):
    """Files that bundles and the report page write at the top of an output folder."""
    configs = "".join(path.read_text() for path in ROOT.glob("bundles/*/configs/*.json"))
    written = set(re.findall(r"@output_dir \+ '/(\w+\.\w+)'", configs)) | {"report.html", *OUTPUTS}
    assert {"summary.csv", "metrics.csv", "summary.json"} < written
    path = folder / "pairs.json"
    for name in written:
        path.write_text(json.dumps([PAIR | {"name": name}]))
        with pytest.raises(ValueError, match="is that of a file of results; choose another"):
            pair_records(nothing(), path, folder)


def test_missing_datalist_and_both_at_once(folder):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        pair_records(nothing(), folder / "none.json", folder)
    with pytest.raises(ValueError, match="not both"):
        pair_records(nothing() | {"fixed": "x"}, folder / "pairs.json", folder)


def test_sections(tmp_path):
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": [{"image": "a.nii.gz", "label": "/data/a.nii.gz"}]}))
    assert read_datalist(path, "training") == [{"image": str(tmp_path / "a.nii.gz"), "label": "/data/a.nii.gz"}]
    with pytest.raises(ValueError, match="no section 'test'"):
        read_datalist(path, "test")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/sub-0/T1w.nii.gz", "/d/sub-1/T1w.nii.gz"], {"sub-0_T1w_sub-1_T1w", "sub-1_T1w_sub-0_T1w"}),
        (["/d/scan.00.nii.gz", "/d/scan.01.nii.gz"], {"scan.00_scan.01", "scan.01_scan.00"}),
        (["/d/a/x.mha", "/d/b.nrrd"], {"x_b", "b_x"}),
        (["/d/1.2.1", "/d/1.2.2"], {"1.2.1_1.2.2", "1.2.2_1.2.1"}),
    ],
)
def test_pairs_of_images_have_names_of_their_own(paths, names):
    assert {pair["name"] for pair in ordered_pairs([{"image": path} for path in paths], 2)} == names


def test_an_image_that_is_null_is_missing(tmp_path):
    (tmp_path / "list.json").write_text('[{"image": null}]')
    with pytest.raises(ValueError, match=r"list\.json: record 0 has no image"):
        image_records(None, tmp_path / "list.json", tmp_path)


def test_paths_are_relative_to_where_a_list_is_named(tmp_path):
    """As MONAI's are, so that one list may be linked beside several copies of the images."""
    (tmp_path / "data").mkdir()
    (tmp_path / "shared.json").write_text('[{"image": "a.nii.gz"}]')
    (tmp_path / "data/list.json").symlink_to(tmp_path / "shared.json")
    assert read_datalist(tmp_path / "data/list.json") == [{"image": str(tmp_path / "data/a.nii.gz")}]


def test_ordered_pairs_are_distinct_and_of_different_images():
    images = [{"image": f"/x/case{k}.nii.gz", "label": f"/y/case{k}.nii.gz"} for k in range(5)]
    pairs = ordered_pairs(images, 20)
    assert len({(pair["fixed"], pair["moving"]) for pair in pairs}) == 20
    assert all(pair["fixed"] != pair["moving"] for pair in pairs)
    assert pairs == ordered_pairs(images, 20)
    assert pairs != ordered_pairs(images, 20, seed=1)
    first = pairs[0]
    assert first["name"] == "_".join(
        first[side].removeprefix("/x/").removesuffix(".nii.gz") for side in ("fixed", "moving")
    )
    assert first["moving_label"] == first["moving"].replace("/x/", "/y/")
    with pytest.raises(ValueError, match="20 ordered pairs, asked for 21"):
        ordered_pairs(images, 21)
