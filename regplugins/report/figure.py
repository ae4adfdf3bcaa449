# SPDX-License-Identifier: Apache-2.0
"""The quality-control picture of a registration (``report.png``)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from torch import Tensor

from regplugins.io import atomic
from regplugins.metrics import subsample_volume
from regplugins.registration.centers import otsu_threshold
from regplugins.report.canvas import Canvas
from regplugins.report.fields import draw_folding, draw_grids, draw_volumes
from regplugins.report.layout import Layout
from regplugins.report.panels import checkerboard, deformation, gray, outline
from regplugins.report.planes import Plane, display_planes
from regplugins.report.windows import image_windows
from regplugins.spatial import Grid

_FIXED_COLOR, _MOVING_COLOR, _WARNING_COLOR = "#ffb000", "#19d3f3", "#b00020"
_OUTSIDE_COLOR = "#4a5f8a"
_TILES, _MANY_LABELS = 6, 12
_SAMPLE_VOXELS = 1 << 21
_ROOM_FOR_LETTERS = 0.6  # inches
_MOVING = 1  # column of the image before registration
# Share of the picture's longest edge within which a landmark is shown on a plane.
_NEAR_A_PLANE = 0.02
_HEADINGS = (
    ("Fixed", ""),
    ("Moving", ""),
    ("Warped", "after registration"),
    ("Checkerboard", "before"),
    ("Checkerboard", "after"),
    ("Deformed grid", "x + u(x)"),
)


def registration_figure(
    path: str | os.PathLike[str],
    fixed: Tensor,
    before: Tensor,
    warped: Tensor,
    grid: Grid,
    displacement: Tensor | None = None,
    *,
    before_covered: Tensor | None = None,
    warped_covered: Tensor | None = None,
    fixed_label: Tensor | None = None,
    before_label: Tensor | None = None,
    warped_label: Tensor | None = None,
    landmarks: Mapping[str, Tensor] | None = None,
    folding_percent: float | None = None,
    anatomical: bool = True,
    start: str = "before registration",
    title: str = "",
    subtitle: str = "",
    warnings: Sequence[str] = (),
) -> None:
    """Draw a registered pair: in three planes the images, how they agree before and after, and the deformation.

    Radiological convention, true proportions in millimeters. Only the displayed slices are copied, so that large
    volumes cost little.

    Args:
        path: of the picture; its suffix says the format. Written completely or not at all.
        fixed: fixed image ``(1, *spatial)``.
        before: moving image on the fixed grid by the initial transform alone, ``(1, *spatial)``.
        warped: moving image after registration, ``(1, *spatial)``.
        grid: of all these.
        displacement: ``(n, *spatial)``, RAS+ mm on ``grid``: a point x of the fixed image is taken to x + u(x).
            None: no deformation is shown.
        before_covered: bool ``(1, *spatial)``, where ``before`` shows the moving image, not what was filled in; the
            rest is tinted. None: everywhere.
        warped_covered: the same of ``warped``.
        fixed_label: integer labels ``(1, *spatial)`` to outline; the planes go through the center of mass of these, or
            else of ``warped_label``, or else of the foreground of ``fixed`` that the warped image covers.
        before_label: the same of ``before``.
        warped_label: the same of ``warped``.
        landmarks: ``(number, n)`` each, RAS+ mm in the fixed image's world, in the same order: ``fixed``, and the
            moving ones brought there by the initial transform alone, ``before``, and after registration, ``warped``.
            Those near a plane are shown on it.
        folding_percent: share of folded voxels in the whole field, to be named above the Jacobian.
        anatomical: the world's axes are those of a body: its directions are named at the edges.
        start: the second line of the heading of ``before``.
        title: the pair's name.
        subtitle: its key figures.
        warnings: what is wrong with the pair, a sentence each.

    Raises:
        ValueError: a tensor does not lie on the grid.
    """
    volumes = {"fixed": fixed, "before": before, "warped": warped, "displacement": displacement}
    volumes |= {"before_covered": before_covered, "warped_covered": warped_covered}
    volumes |= {"fixed_label": fixed_label, "before_label": before_label, "warped_label": warped_label}
    for name, volume in volumes.items():
        expected = (grid.ndim if name == "displacement" else 1, *grid.shape)
        if volume is not None and tuple(volume.shape) != expected:
            raise ValueError(f"{name} must be of the shape {expected} to lie on the grid, got {tuple(volume.shape)}")
    label = warped_label if fixed_label is None else fixed_label
    planes = display_planes(grid, _content_center(fixed, warped_covered) if label is None else _center(label))
    canvas = Canvas(Layout(planes, 5 if displacement is None else 7, title, subtitle, warnings))
    outside = _images(canvas, fixed, (before, warped), (before_covered, warped_covered))
    keys = _outlines(canvas, fixed_label, before_label, warped_label)
    keys |= _landmarks(canvas, grid, landmarks or {}) | outside
    if displacement is not None:
        fields = [deformation(displacement, grid, plane) for plane in planes]
        draw_grids(canvas, fields)
        draw_volumes(canvas, fields)
        draw_folding(canvas, folding_percent, fields)
    _captions(canvas, anatomical, start)
    _legend(canvas, keys)
    with atomic(path) as temporary:
        canvas.figure.savefig(temporary, dpi=canvas.figure.dpi)


def _center(mask: Tensor) -> tuple[int, ...]:
    """Index of the center of mass of what is not zero in a volume ``(1, *spatial)``, else of its middle."""
    sample, stride = subsample_volume(mask, _SAMPLE_VOXELS)
    places = sample[0].nonzero().double() * stride
    if len(places) == 0:
        return tuple(size // 2 for size in mask.shape[1:])
    return tuple(int(k) for k in places.mean(dim=0).round())


def _content_center(fixed: Tensor, covered: Tensor | None) -> tuple[int, ...]:
    """Index of the center of the fixed image's bright part, of what the moving image covers of it if it does."""
    sample, stride = subsample_volume(fixed, _SAMPLE_VOXELS)
    low, high = sample.aminmax()
    if not low < high:  # not for NaN either
        return tuple(size // 2 for size in fixed.shape[1:])
    bright = sample > otsu_threshold(sample)
    shared = bright if covered is None else bright & subsample_volume(covered, _SAMPLE_VOXELS)[0]
    center = _center(shared if shared.any() else bright)
    return tuple(min(k * stride, size - 1) for k, size in zip(center, fixed.shape[1:], strict=True))


def _images(
    canvas: Canvas, fixed: Tensor, moving: Sequence[Tensor], covered: Sequence[Tensor | None]
) -> dict[str, Line2D | Patch]:
    """Columns 1 to 5: the three images, and checkerboards of fixed and moving before and after."""
    planes = canvas.layout.planes
    slices = [[plane.take(image)[0] for plane in planes] for image in (fixed, *moving)]
    outside = [
        [np.zeros(plane.size, bool) if part is None else plane.take(part)[0] == 0 for plane in planes]
        for part in covered
    ]
    # Of the moving image what is shown of it, not what was filled in; where nothing is, that.
    seen = [
        image[~hidden]
        for images, parts in zip(slices[1:], outside, strict=True)
        for image, hidden in zip(images, parts, strict=True)
    ]
    shown = np.concatenate(seen) if any(part.size for part in seen) else np.concatenate([p.ravel() for p in slices[2]])
    fixed_window, moving_window = image_windows(np.concatenate([part.ravel() for part in slices[0]]), shown)
    tile = max(max(plane.width, plane.height) for plane in planes) / _TILES
    for row, plane in enumerate(planes):
        f = _tinted(gray(slices[0][row], fixed_window))
        b, w = (
            _tinted(gray(images[row], moving_window), hidden[row])
            for images, hidden in zip(slices[1:], outside, strict=True)
        )
        for column, picture in enumerate((f, b, w, checkerboard(f, b, plane, tile), checkerboard(f, w, plane, tile))):
            canvas.image(canvas.layout.panel(row, column), picture)
    if not any(part.any() for parts in outside for part in parts):
        return {}
    return {"outside the moving image": Patch(color=_OUTSIDE_COLOR)}


def _tinted(shades: np.ndarray, hidden: np.ndarray | None = None) -> np.ndarray:
    """Gray values in [0, 1] as RGB, the hidden ones in the color of what lies outside the moving image."""
    colors = np.repeat(shades[..., None], 3, axis=2)
    if hidden is not None:
        colors[hidden] = to_rgb(_OUTSIDE_COLOR)
    return colors


def _outlines(
    canvas: Canvas, fixed: Tensor | None, before: Tensor | None, warped: Tensor | None
) -> dict[str, Line2D | Patch]:
    """Outline the fixed label on columns 1 to 3 and the moving one on its own image, unless both would be a crowd."""
    given = [(fixed, _FIXED_COLOR, (0, 1, 2)), (before, _MOVING_COLOR, (1,)), (warped, _MOVING_COLOR, (2,))]
    shown = [(label, color, columns) for label, color, columns in given if label is not None]
    if not shown:
        return {}
    slices = [plane.take(shown[0][0])[0] for plane in canvas.layout.planes]
    many = len(np.unique(np.concatenate([part.ravel() for part in slices]))) > _MANY_LABELS
    if many and fixed is not None:
        shown = shown[:1]
    for label, color, columns in shown:
        for row, plane in enumerate(canvas.layout.planes):
            segments = outline(plane.take(label)[0], plane)
            for column in columns:
                width = 0.4 if many else 1
                canvas.lines(row, column, segments, edgecolor=color, linewidth=width, capstyle="projecting")
    names = {_FIXED_COLOR: "fixed label", _MOVING_COLOR: "moving label"}
    return {names[color]: Line2D([], [], color=color, linewidth=2) for _, color, _ in shown}


def _landmarks(canvas: Canvas, grid: Grid, points: Mapping[str, Tensor]) -> dict[str, Line2D | Patch]:
    """The fixed landmarks near each plane on columns 1 to 3, and on the moving image's where its own lie."""
    if "fixed" not in points:
        return {}
    index = {name: grid.world_to_index(part.double()).numpy() for name, part in points.items()}
    near = _NEAR_A_PLANE * max(max(plane.width, plane.height) for plane in canvas.layout.planes)
    for row, plane in enumerate(canvas.layout.planes):
        chosen = slice(None)
        if plane.cut is not None:
            axis, number = plane.cut
            spacing = float(grid.spacing[axis])
            chosen = np.abs(index["fixed"][:, axis] - number) * spacing <= max(near, spacing / 2)
        fixed = plane.project(index["fixed"][chosen])
        for column, name in enumerate(("fixed", "before", "warped")):
            if name != "fixed" and name in index:
                moving = plane.project(index[name][chosen])
                canvas.lines(row, column, np.stack([fixed, moving], axis=1), edgecolor="white", linewidth=0.8)
                canvas.dots(row, column, moving, _MOVING_COLOR)
            canvas.dots(row, column, fixed, _FIXED_COLOR)
    names = {"fixed landmark": _FIXED_COLOR} | ({"moving landmark": _MOVING_COLOR} if len(index) > 1 else {})
    return {
        name: Line2D([], [], linestyle="", marker="o", color=color, markeredgecolor="black", markersize=5)
        for name, color in names.items()
    }


def _captions(canvas: Canvas, anatomical: bool, start: str) -> None:
    """Headings, names of the rows, title, figures and warnings, scale bar, and the directions of the body."""
    layout = canvas.layout
    for column, (name, detail) in enumerate(_HEADINGS[: layout.columns]):
        canvas.text(layout.heading(column, 0), name, ha="center", fontsize=11)
        canvas.text(layout.heading(column, 1), detail if column != _MOVING else start, ha="center", fontsize=9.5)
    for number, line in enumerate(layout.title_lines):
        canvas.text(layout.title_line(number), line, va="top", fontsize=14, fontweight="bold")
    for number, line in enumerate(layout.subtitle_lines + layout.warning_lines):
        color = "black" if number < len(layout.subtitle_lines) else _WARNING_COLOR
        canvas.text(layout.subtitle_line(number), line, va="top", fontsize=11, color=color)
    for row, plane in enumerate(layout.planes):
        if anatomical:
            canvas.text(layout.row_name(row), plane.name, ha="center", va="center", fontsize=11, rotation=90)
            _ends(canvas, row, plane)
    _scale_bar(canvas)


def _scale_bar(canvas: Canvas) -> None:
    """Below column 1: a bar of a round length, at most 0.8 inches."""
    layout = canvas.layout
    longest = 0.8 / layout.scale
    power = 10.0 ** math.floor(math.log10(longest))
    length = max(digit * power for digit in (1, 2, 5) if digit * power <= longest)
    x, y = layout.legend(0)
    bar = Line2D([x, x + length * layout.scale / layout.width], [y, y], color="black", linewidth=2)
    canvas.figure.add_artist(bar)
    canvas.text((x, y - 0.05 / layout.height), f"{length:g} mm", va="top", fontsize=9.5)


def _ends(canvas: Canvas, row: int, plane: Plane) -> None:
    """Name the anatomical directions at the edges of the fixed image, where two letters have room."""
    left, bottom, width, height = canvas.layout.panel(row, 0)
    places = [(0.03, 0.5, "left", "center"), (0.97, 0.5, "right", "center")]
    places += [(0.5, 0.97, "center", "top"), (0.5, 0.03, "center", "bottom")]
    room = [width * canvas.layout.width] * 2 + [height * canvas.layout.height] * 2
    for letter, inches, (x, y, horizontal, vertical) in zip(plane.ends, room, places, strict=True):
        if inches < _ROOM_FOR_LETTERS:
            continue
        text = canvas.text((left + x * width, bottom + y * height), letter, ha=horizontal, va=vertical)
        text.set(fontsize=9.5, fontweight="bold", color="white")
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _legend(canvas: Canvas, keys: Mapping[str, Line2D | Patch]) -> None:
    """Below columns 2 to 5, in two lines at most."""
    if not keys:
        return
    canvas.figure.legend(
        handles=list(keys.values()),
        labels=list(keys),
        loc="upper left",
        bbox_to_anchor=canvas.layout.legend(1),
        ncols=3,
        fontsize=9.5,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.5,
    )
