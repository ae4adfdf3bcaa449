# SPDX-License-Identifier: Apache-2.0
"""Quality-control picture, read back from its file."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from torch import Tensor

from regplugins.report import pair_figure
from regplugins.report.layout import Layout, create_layout
from regplugins.report.panels import deformation, draw_grids
from regplugins.report.planes import display_planes
from regplugins.spatial import AffineTransform, DisplacementField, Grid
from tests.itk_truth import translation

SHAPE = (16, 20, 12)
GRID = Grid(SHAPE, torch.diag(torch.tensor([1.0, 1.5, 3.0, 1.0])))


def image_pair(shape: tuple[int, ...] = SHAPE) -> dict[str, Tensor]:
    """Three different images and a displacement field."""
    fixed, before, warped = torch.rand(3, 1, *shape)
    return {"fixed": fixed, "before": before, "warped": warped, "displacement": 0.3 * torch.randn(len(shape), *shape)}


def as_pair(grid: Grid, arguments: dict[str, Any]) -> dict[str, Any]:
    """A registered pair of the given images on a grid, in one world."""
    n, everywhere = grid.ndim, torch.ones(1, *grid.shape, dtype=torch.bool)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:n, :n], affine[:n, 3] = grid.affine[:n, :n], grid.affine[:n, n]
    identity = AffineTransform.identity(n)
    pair = {"before_covered": everywhere, "warped_covered": everywhere, "metrics": {"folding_percent": None}}
    pair |= {"paths": {"fixed": "fixed.nii.gz"}, "start": identity, "initial": identity, "inverse": identity}
    displacement = DisplacementField(arguments["displacement"], grid)
    return pair | arguments | {"fixed": MetaTensor(arguments["fixed"], affine=affine), "displacement": displacement}


def drawn(folder: Path, grid: Grid = GRID, **arguments: Any) -> np.ndarray:
    """Pixels (rows, columns, 3) of the picture."""
    path = folder / "report.png"
    pair_figure(path, as_pair(grid, arguments))
    assert [file.name for file in folder.iterdir()] == ["report.png"]
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGBA"))
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def place(layout: Layout, row: int, column: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a panel's frame, as fractions of the figure."""
    box = layout.panels[row][column].frame.get_window_extent().transformed(layout.figure.transFigure.inverted())
    return box.x0, box.x1, box.y0, box.y1


def panel(pixels: np.ndarray, layout: Layout, row: int, column: int) -> np.ndarray:
    """Pixels of a panel within its frame."""
    left, right, bottom, top = place(layout, row, column)
    rows, columns = pixels.shape[:2]
    inner = pixels[round((1 - top) * rows) + 2 : round((1 - bottom) * rows) - 2]
    return inner[:, round(left * columns) + 2 : round(right * columns) - 2]


def layout_of(grid: Grid, title: str = "") -> Layout:
    return create_layout(display_planes(grid, tuple(size // 2 for size in grid.shape)), title, "")


def test_a_row_a_plane_and_a_panel_a_column(tmp_path: Path) -> None:
    pixels = drawn(tmp_path, **image_pair())
    layout = layout_of(GRID)
    assert pixels.shape[1::-1] == pytest.approx(150 * layout.figure.get_size_inches(), abs=1)
    for row in range(3):
        for column in range(7):
            assert panel(pixels, layout, row, column).std() > 10


@pytest.mark.parametrize("shape", [SHAPE, (200, 200, 5), (4, 100, 100), (3, 90, 6)])
def test_panels_have_the_images_proportions_and_one_scale(shape: tuple[int, ...]) -> None:
    grid = Grid(shape, GRID.affine)
    x, y, z = (size * step for size, step in zip(shape, (1.0, 1.5, 3.0), strict=True))
    layout = layout_of(grid)
    width, height = layout.figure.get_size_inches()
    for row, (across, down) in enumerate([(x, y), (x, z), (y, z)]):
        for column in range(7):
            left, right, bottom, top = place(layout, row, column)
            assert (right - left) * width / across == pytest.approx(layout.scale)
            assert (top - bottom) * height / down == pytest.approx(layout.scale)


@pytest.mark.parametrize("shape", [(30, 20, 12), (200, 200, 5), (4, 100, 100), (3, 90, 6)])
def test_nothing_overlaps_or_leaves_the_picture(shape: tuple[int, ...]) -> None:
    planes = display_planes(Grid(shape, torch.eye(4)), tuple(size // 2 for size in shape))
    layout = create_layout(planes, "long " * 60, "figures " * 60, ["something is wrong " * 20, "so is this"])
    places = [place(layout, row, column) for row in range(len(planes)) for column in range(7)]
    inches = layout.figure.get_size_inches()
    for column in (5, 6):
        bar = layout.color_bar(column)
        x, y = (np.array(bar[:2]) / inches).tolist()
        places.append((x, x + bar.width / inches[0], y, y + bar.height / inches[1]))
    to_figure = layout.figure.transFigure.inverted()
    for text in layout.figure.texts:
        box = text.get_window_extent().transformed(to_figure)
        places.append((box.x0, box.x1, box.y0, box.y1))
    for k, (left, right, bottom, top) in enumerate(places):
        assert min(left, bottom) >= 0 and max(right, top) <= 1
        for other_left, other_right, other_bottom, other_top in places[:k]:
            assert max(left - other_right, other_left - right, bottom - other_top, other_bottom - top) > -1e-9
    lines = [text.get_text() for text in layout.figure.texts]
    assert [line.startswith("Warning: ") for line in lines].count(True) == 2
    assert len(lines) > 2 + 2 + 3  # all of them are wrapped


def test_the_patients_right_front_is_top_left(tmp_path: Path) -> None:
    arguments = image_pair()
    fixed = torch.zeros(1, *SHAPE)
    fixed[0, 12:, 15:, 6] = 1  # RAS+: high indices are right and front
    axial = panel(drawn(tmp_path, **{**arguments, "fixed": fixed}), layout_of(GRID), 0, 0).mean(axis=-1)
    rows, columns = np.nonzero(axial > 250)
    block = axial[: axial.shape[0] // 5, : axial.shape[1] // 5]
    assert (block > 250).mean() > 0.8
    assert (axial[axial.shape[0] // 2 :, axial.shape[1] // 2 :] > 250).mean() < 0.05  # but for the letters
    assert len(rows) == len(columns) > 0


def test_other_images_make_another_picture_and_the_same_the_same(tmp_path: Path) -> None:
    arguments = image_pair()
    layout = layout_of(GRID)
    pictures = []
    other = arguments["warped"].clone()  # two blocks of every axial plane change places
    other[0, 2:6, 2:9], other[0, 10:14, 2:9] = arguments["warped"][0, 10:14, 2:9], other[0, 2:6, 2:9].clone()
    for warped in (arguments["warped"], arguments["warped"], other):
        pictures.append(drawn(tmp_path, **{**arguments, "warped": warped}))
    assert np.array_equal(pictures[0], pictures[1])
    changed = [not np.array_equal(panel(pictures[0], layout, 0, k), panel(pictures[2], layout, 0, k)) for k in range(7)]
    assert changed == [False, False, True, False, True, False, False]


def test_folds_are_marked(tmp_path: Path) -> None:
    arguments = image_pair()
    x = GRID.coordinates()[..., 0]
    away = {"smooth": torch.zeros_like(x), "folded": 4 * torch.sin(x)}
    marked = {}
    for name, along in away.items():
        arguments["displacement"] = torch.stack([along, 0 * x, 0 * x]).float()
        jacobian = panel(drawn(tmp_path, **arguments), layout_of(GRID), 0, 6).astype(int)
        marked[name] = (jacobian[..., [0, 2]].min(axis=-1) - jacobian[..., 1] > 100).mean()
    axis = np.arange(16) + 4 * np.sin(np.arange(16.0))
    assert marked["smooth"] == 0
    assert marked["folded"] == pytest.approx(np.mean(np.gradient(axis) <= 0), abs=0.05)


def test_labels_steer_the_planes_and_are_outlined(tmp_path: Path) -> None:
    arguments = image_pair()
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[0, 3:9, 4:12, 1:4] = 1
    arguments["fixed"] = torch.zeros(1, *SHAPE)
    arguments["fixed"][0, :, :, 2] = torch.arange(16.0)[:, None]
    pixels = drawn(tmp_path, **arguments, fixed_label=label, before_label=label.roll(3, 1), warped_label=label)
    layout = layout_of(GRID)
    shown = panel(pixels, layout, 0, 0)
    assert shown.std() > 30  # the plane through the label, not the empty one through the center
    strong = (shown.max(axis=-1).astype(int) - shown.min(axis=-1)) > 150
    rows, columns = np.nonzero(strong)
    height, width = strong.shape
    # 6 x 8 voxels at index 3 and 4 of 16 x 20, seen from below: right is left, front is up.
    assert (columns.min() / width, columns.max() / width) == pytest.approx((7 / 16, 13 / 16), abs=0.03)
    assert (rows.min() / height, rows.max() / height) == pytest.approx((8 / 20, 16 / 20), abs=0.03)


def test_a_moving_label_alone_is_outlined(tmp_path: Path) -> None:
    label = torch.zeros(1, *SHAPE, dtype=torch.int16)
    label[0, 3:9, 4:12, 1:6] = 1
    pixels = drawn(tmp_path, **image_pair(), before_label=label, warped_label=label)
    blue = [panel(pixels, layout_of(GRID), 0, column).astype(int) for column in (0, 1, 2)]
    assert [bool((shown[..., 2] - shown[..., 0] > 150).any()) for shown in blue] == [False, True, True]


OUTSIDE, FIXED, MOVING = (74, 95, 138), (255, 176, 0), (25, 211, 243)


def colored(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Pixels of a color."""
    return (np.abs(pixels.astype(int) - color) < 4).all(axis=-1)


def test_what_lies_outside_the_moving_image_is_tinted(tmp_path: Path) -> None:
    covered = torch.ones(1, *SHAPE, dtype=torch.bool)
    covered[0, :4] = False  # the patient's left quarter: the right of the picture
    everywhere = torch.ones_like(covered)
    pixels = drawn(tmp_path, **image_pair(), before_covered=everywhere, warped_covered=covered)
    tinted = [colored(panel(pixels, layout_of(GRID), 0, column), OUTSIDE) for column in range(5)]
    assert [part.any() for part in tinted] == [False, False, True, False, True]
    width = tinted[2].shape[1]
    assert tinted[2][:, : round(0.74 * width)].sum() == 0
    assert tinted[2][:, round(0.76 * width) :].mean() > 0.99
    assert 0.3 < tinted[4][:, round(0.76 * width) :].mean() < 0.7  # the moving image's tiles
    bottom = pixels[-round(0.6 * 150) :]
    assert colored(bottom, OUTSIDE).sum() > 100  # the key
    all_seen = drawn(tmp_path, **image_pair(), before_covered=everywhere, warped_covered=everywhere)
    assert not colored(all_seen, OUTSIDE).any()


def test_what_was_filled_in_does_not_set_the_window(tmp_path: Path) -> None:
    covered = torch.ones(1, *SHAPE, dtype=torch.bool)
    covered[0, :4] = False
    pictures = []
    for fill in (0.0, -3000.0):
        torch.manual_seed(0)
        arguments = image_pair()
        arguments["warped"][0, :4] = fill
        pictures.append(drawn(tmp_path, **arguments, warped_covered=covered))
    assert np.array_equal(*pictures)


def test_planes_go_through_what_is_bright_where_the_moving_image_covers_it(tmp_path: Path) -> None:
    arguments = image_pair()
    fixed = torch.zeros(1, *SHAPE)
    fixed[0, 4:10, 5:15, 1:4] = 1
    fixed[0, 4:10, 5:15, 9:11] = 1
    covered = torch.ones(1, *SHAPE, dtype=torch.bool)
    covered[0, :, :, 6:] = False
    arguments["fixed"] = fixed
    shown = panel(drawn(tmp_path, **arguments, warped_covered=covered), layout_of(GRID), 0, 0)
    assert 0.1 < (shown > 250).all(axis=-1).mean() < 0.25  # 6 x 10 of 16 x 20 voxels, not the empty plane 6


def test_landmarks_near_the_plane_are_shown_and_their_errors(tmp_path: Path) -> None:
    arguments = image_pair() | {"fixed": torch.zeros(1, *SHAPE)}
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[0, 7:9, 9:11, 6] = 1
    index = torch.tensor([[12.0, 15, 6], [4, 4, 11]])  # the second is 15 mm from the plane
    fixed = GRID.index_to_world(index)
    away = fixed + torch.tensor([-6.0, 0, 0])
    start = translation(*(fixed[0] - away[0]).tolist())
    points = {"fixed_landmarks": fixed, "moving_landmarks": fixed, "start": start}
    pixels = drawn(tmp_path, **arguments, warped_label=label, **points)
    layout = layout_of(GRID)
    centers = []
    for column, color in ((0, FIXED), (1, FIXED), (1, MOVING), (2, FIXED)):
        part = panel(pixels, layout, 0, column)
        part = part[: part.shape[0] // 3] if color == MOVING else part  # above the outlined label
        rows, columns = np.nonzero(colored(part, color))
        height, width = panel(pixels, layout, 0, column).shape[:2]
        centers.append((columns.mean() / width, rows.mean() / height))
    place = ((15 - 12 + 0.5) / 16, (19 - 15 + 0.5) / 20)  # seen from below: right is left, front is up
    expected = [place, place, (place[0] + 6 / 16, place[1]), place]
    assert np.array(centers) == pytest.approx(np.array(expected), abs=0.02)


def test_a_picture_that_is_no_body_has_no_letters(tmp_path: Path) -> None:
    grid = Grid((40, 30), torch.eye(3))
    arguments = image_pair((40, 30)) | {"fixed": torch.zeros(1, 40, 30)}
    named, bare = (
        panel(drawn(tmp_path, grid, **arguments, paths={"fixed": name}), layout_of(grid), 0, 0)
        for name in ("a.nii", "a.png")
    )
    assert named.std() > 5
    assert bare.std() == 0


def test_letters_that_would_overlap_are_left_out(tmp_path: Path) -> None:
    """In the picture of a thin volume A, P, S and I have room, R and L do not."""
    shape = (6, 6, 120)
    grid = Grid(shape, torch.eye(4))
    pixels = drawn(tmp_path, grid, **image_pair(shape) | {"fixed": torch.zeros(1, *shape)})
    for row, letters in enumerate((0, 2, 2)):
        rows = (panel(pixels, layout_of(grid), row, 0) > 200).all(axis=-1).any(axis=1)
        assert np.count_nonzero(np.diff(np.r_[0, rows.astype(int), 0]) == 1) == letters


def test_warnings_are_red_and_above_the_panels(tmp_path: Path) -> None:
    quiet, loud = (drawn(tmp_path, **image_pair(), warnings=given) for given in ([], ["covers $3 % of _it_"]))
    assert loud.shape[0] > quiet.shape[0]
    assert not colored(quiet, (176, 0, 32)).any()
    rows = np.nonzero(colored(loud, (176, 0, 32)))[0]
    assert len(rows) > 50 and rows.max() < 0.25 * len(loud)


def test_moving_outlines_are_left_out_in_a_crowd(tmp_path: Path) -> None:
    blue = []
    for structures in (2, 40):
        label = torch.arange(16)[:, None, None].expand(SHAPE)[None] * structures // 16
        pixels = drawn(tmp_path, **image_pair(), fixed_label=label, before_label=label.roll(1, 1), warped_label=label)
        shown = panel(pixels, layout_of(GRID), 0, 1).astype(int)
        blue.append((shown[..., 2] - shown[..., 0] > 150).any())
    assert blue == [True, False]


@pytest.mark.parametrize("shape", [(24, 15), (1, 1), (9, 8, 1), (1, 7, 9), (2, 2, 2), (1, 1, 5)])
def test_small_and_flat_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    grid = Grid(shape, torch.eye(len(shape) + 1))
    pixels = drawn(tmp_path, grid, **image_pair(shape), name="flat")
    layout = layout_of(grid, "flat")
    assert len(layout.planes) == (3 if min(shape) > 1 and len(shape) == 3 else 1)
    assert pixels.shape[1::-1] == pytest.approx(150 * layout.figure.get_size_inches(), abs=1)


@pytest.mark.parametrize("value", [0.0, -1024.0, float("nan")])
def test_constant_images(tmp_path: Path, value: float) -> None:
    image, zero = torch.full((1, *SHAPE), value), torch.zeros(3, *SHAPE)
    label = torch.zeros(1, *SHAPE, dtype=torch.int16)
    drawn(tmp_path, fixed=image, before=image, warped=image, displacement=zero, fixed_label=label)


def test_a_title_is_text_whatever_it_holds(tmp_path: Path) -> None:
    drawn(tmp_path, **image_pair(), name=r"a$\x$_b^{", warnings=["$ 3 → 4 % · <&>"])


@pytest.mark.parametrize("longest", [0.0123, 0.8, 61.5, 12345.6, 1234567.0, 3.3e12])
def test_numbers_below_a_color_bar_do_not_overlap(longest: float) -> None:
    planes = display_planes(GRID, tuple(size // 2 for size in SHAPE))
    layout = create_layout(planes, "", "")
    displacement = torch.zeros(3, *SHAPE)
    displacement[0] = longest
    draw_grids(layout, [deformation(displacement, GRID, plane) for plane in planes])
    *ticks, _ = layout.axes.texts
    boxes = sorted((text.get_window_extent().extents.tolist() for text in ticks), key=lambda box: box[0])
    assert all(left[2] < right[0] for left, right in itertools.pairwise(boxes))
    assert float(ticks[0].get_text()) == 0 and float(ticks[-1].get_text()) == pytest.approx(longest, rel=5e-3)
    if longest in (0.8, 61.5, 12345.6):
        assert len(ticks) == 3
