# SPDX-License-Identifier: Apache-2.0
"""The quality-control picture of a registration (``report.png``)."""

from __future__ import annotations

import math
import os

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from torch import Tensor

from regplugins.io import atomic
from regplugins.report.layout import Layout
from regplugins.report.panels import Deformation, checkerboard, deformation, grey, grid_lines, outline, window
from regplugins.report.planes import Plane, display_planes
from regplugins.spatial import Grid

_DPI = 150
_FIXED_COLOUR, _MOVING_COLOUR, _FOLDED_COLOUR = "#ffb000", "#19d3f3", "#e000e0"
_TILES, _LINES, _MANY_LABELS = 6, 26, 12
_VOLUME_RATIOS = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
_SAMPLE_VOXELS = 1 << 21
_HEADINGS = (
    ("Fixed", ""),
    ("Moving", "before registration"),
    ("Warped", "after registration"),
    ("Checkerboard", "before"),
    ("Checkerboard", "after"),
    ("Deformed grid", "x + u(x)"),
    ("Jacobian", ""),
)
# Without viridis' yellow end, which is lost on white paper.
_LENGTHS = LinearSegmentedColormap.from_list("lengths", colormaps["viridis"](np.linspace(0, 0.85, 256)))
_VOLUMES = colormaps["RdBu"].with_extremes(bad=_FOLDED_COLOUR)


def registration_figure(
    path: str | os.PathLike[str],
    fixed: Tensor,
    before: Tensor,
    warped: Tensor,
    grid: Grid,
    displacement: Tensor | None = None,
    *,
    fixed_label: Tensor | None = None,
    before_label: Tensor | None = None,
    warped_label: Tensor | None = None,
    folding_percent: float | None = None,
    title: str = "",
    subtitle: str = "",
) -> None:
    """Draw a registered pair: in three planes the images, how they agree before and after, and the deformation.

    Radiological convention, true proportions in millimetres. Only the displayed slices are copied, so that large
    volumes cost little.

    Args:
        path: of the picture; its suffix says the format. Written completely or not at all.
        fixed: fixed image ``(1, *spatial)``.
        before: moving image on the fixed grid by the initial transform alone, ``(1, *spatial)``.
        warped: moving image after registration, ``(1, *spatial)``.
        grid: of all these.
        displacement: ``(n, *spatial)``, RAS+ mm on ``grid``: a point x of the fixed image is taken to x + u(x).
            None: no deformation is shown.
        fixed_label: integer labels ``(1, *spatial)`` to outline; the planes go through the centre of mass of these, or
            else of ``warped_label``.
        before_label: the same of ``before``.
        warped_label: the same of ``warped``.
        folding_percent: share of folded voxels in the whole field, to be named above the Jacobian.
        title: the pair's name.
        subtitle: its key figures.

    Raises:
        ValueError: a tensor does not lie on the grid.
    """
    volumes = {"fixed": fixed, "before": before, "warped": warped, "displacement": displacement}
    volumes |= {"fixed_label": fixed_label, "before_label": before_label, "warped_label": warped_label}
    for name, volume in volumes.items():
        expected = (grid.ndim if name == "displacement" else 1, *grid.shape)
        if volume is not None and tuple(volume.shape) != expected:
            raise ValueError(f"{name} must be of the shape {expected} to lie on the grid, got {tuple(volume.shape)}")
    planes = display_planes(grid, _centre(warped_label if fixed_label is None else fixed_label, grid))
    layout = Layout(planes, 5 if displacement is None else 7, title, subtitle)
    figure = Figure(figsize=(layout.width, layout.height), dpi=_DPI, facecolor="white")
    axes = [[_panel(figure, layout, row, column) for column in range(layout.columns)] for row in range(len(planes))]
    _images(axes, planes, fixed, before, warped)
    _outlines(figure, layout, axes, fixed_label, before_label, warped_label)
    if displacement is not None:
        fields = [deformation(displacement, grid, plane) for plane in planes]
        _grids(figure, layout, axes, fields)
        _volumes(figure, layout, axes, fields)
        _folding(figure, layout, folding_percent, seen=any((~(f.determinant > 0)).any() for f in fields))
    _headings(figure, layout)
    _scale_bar(figure, layout)
    for row, plane in enumerate(planes):
        _ends(axes[row][0], plane)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def _centre(label: Tensor | None, grid: Grid) -> tuple[int, ...]:
    """Index of the voxel through which the planes go: the labels' centre of mass, else the grid's centre."""
    middle = tuple(size // 2 for size in grid.shape)
    if label is None:
        return middle
    stride = max(1, round((label.numel() / _SAMPLE_VOXELS) ** (1 / grid.ndim)))
    steps = tuple(slice(None, None, stride) for _ in grid.shape)
    places = label[0][steps].nonzero().double() * stride
    return tuple(int(k) for k in places.mean(dim=0).round()) if len(places) else middle


def _panel(figure: Figure, layout: Layout, row: int, column: int) -> Axes:
    axes = figure.add_axes(layout.panel(row, column))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(layout.planes[row].extent[:2])
    axes.set_ylim(layout.planes[row].extent[2:])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
        spine.set_color("0.6")
    return axes


def _images(axes: list[list[Axes]], planes: list[Plane], fixed: Tensor, before: Tensor, warped: Tensor) -> None:
    """Columns 1 to 5: the three images, and checkerboards of fixed and moving before and after."""
    slices = [[plane.take(image)[0] for plane in planes] for image in (fixed, before, warped)]
    fixed_window, moving_window = window(slices[0]), window(slices[1] + slices[2])
    tile = max(max(plane.width, plane.height) for plane in planes) / _TILES
    for row, plane in enumerate(planes):
        f = grey(slices[0][row], fixed_window)
        b, w = (grey(images[row], moving_window) for images in slices[1:])
        pictures = (f, b, w, checkerboard(f, b, plane, tile), checkerboard(f, w, plane, tile))
        for panel, picture in zip(axes[row][:5], pictures, strict=True):
            panel.imshow(
                picture, cmap="gray", vmin=0, vmax=1, extent=plane.extent, aspect="auto", interpolation="nearest"
            )


def _outlines(
    figure: Figure,
    layout: Layout,
    axes: list[list[Axes]],
    fixed: Tensor | None,
    before: Tensor | None,
    warped: Tensor | None,
) -> None:
    """Outline the fixed label on columns 1 to 3 and the moving one on its own image, unless both would be a crowd."""
    given = [(fixed, _FIXED_COLOUR, (0, 1, 2)), (before, _MOVING_COLOUR, (1,)), (warped, _MOVING_COLOUR, (2,))]
    shown = [(label, colour, columns) for label, colour, columns in given if label is not None]
    if not shown:
        return
    slices = [plane.take(shown[0][0])[0] for plane in layout.planes]
    many = len(np.unique(np.concatenate([part.ravel() for part in slices]))) > _MANY_LABELS
    if many and fixed is not None:
        shown = shown[:1]
    for label, colour, columns in shown:
        for row, plane in enumerate(layout.planes):
            segments = list(outline(plane.take(label)[0], plane))
            for column in columns:
                lines = LineCollection(segments, colors=colour, linewidths=0.4 if many else 1, capstyle="projecting")
                axes[row][column].add_collection(lines)
    names = {_FIXED_COLOUR: "fixed label", _MOVING_COLOUR: "moving label"}
    colours = dict.fromkeys(colour for _, colour, _ in shown)
    figure.legend(
        handles=[Line2D([], [], color=colour, linewidth=2, label=names[colour]) for colour in colours],
        loc="upper left",
        bbox_to_anchor=layout.legend(1),
        fontsize=9.5,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.5,
    )


def _grids(figure: Figure, layout: Layout, axes: list[list[Axes]], fields: list[Deformation]) -> None:
    """Column 6: the fixed image's grid, moved, coloured by the length of the displacement, folded lines marked."""
    longest = max(1e-3, *(float(field.length.max()) for field in fields))
    norm = Normalize(0, longest)
    step = max(max(plane.width, plane.height) for plane in layout.planes) / _LINES
    for row, (plane, field) in enumerate(zip(layout.planes, fields, strict=True)):
        segments, lengths, folded = grid_lines(field, plane, step)
        lines = LineCollection(
            list(segments), array=lengths, cmap=_LENGTHS, norm=norm, linewidths=0.75, capstyle="round"
        )
        axes[row][5].add_collection(lines)
        axes[row][5].add_collection(LineCollection(list(segments[folded]), colors=_FOLDED_COLOUR, linewidths=1.5))
    ticks = [0, longest / 2, longest]
    _colour_bar(figure, layout, 5, ScalarMappable(norm, _LENGTHS), ticks, "displacement (mm)", extend="neither")


def _volumes(figure: Figure, layout: Layout, axes: list[list[Axes]], fields: list[Deformation]) -> None:
    """Column 7: the Jacobian determinant, logarithmic about one, folded voxels in a colour of their own."""
    changes = np.concatenate([np.abs(np.log(field.determinant[field.determinant > 0])) for field in fields])
    largest = math.exp(np.percentile(changes, 98)) if changes.size else 1.0
    limit = next((ratio for ratio in _VOLUME_RATIOS if ratio >= largest), _VOLUME_RATIOS[-1])
    norm = LogNorm(1 / limit, limit)
    for row, (plane, field) in enumerate(zip(layout.planes, fields, strict=True)):
        positive = np.ma.masked_where(~(field.determinant > 0), field.determinant)
        axes[row][6].imshow(
            positive, cmap=_VOLUMES, norm=norm, extent=plane.extent, aspect="auto", interpolation="nearest"
        )
    ticks = [1 / limit, 1, limit]
    label = "area ratio (mm²/mm²)" if len(layout.planes) == 1 else "volume ratio (mm³/mm³)"
    _colour_bar(figure, layout, 6, ScalarMappable(norm, _VOLUMES), ticks, label, extend="both")


def _colour_bar(
    figure: Figure, layout: Layout, column: int, colours: ScalarMappable, ticks: list[float], name: str, extend: str
) -> None:
    axes = figure.add_axes(layout.colour_bar(column))
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal", extend=extend)
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=9, length=2, pad=1.5)
    bar.set_label(name, fontsize=9.5, labelpad=1)
    bar.outline.set_linewidth(0.5)


def _folding(figure: Figure, layout: Layout, percent: float | None, seen: bool) -> None:
    """Above column 7: how much is folded, as the key to that colour if there is any."""
    share = "" if percent is None else "< 0.01 % " if 0 < percent < 0.01 else f"{percent:.2f} % "
    if seen or percent:
        figure.text(*layout.heading(6, 1), f"■ {share}folded", ha="center", fontsize=9.5, color=_FOLDED_COLOUR)
    elif percent == 0:
        figure.text(*layout.heading(6, 1), "no folding", ha="center", fontsize=9.5)


def _headings(figure: Figure, layout: Layout) -> None:
    for column, (name, detail) in enumerate(_HEADINGS[: layout.columns]):
        figure.text(*layout.heading(column, 0), name, ha="center", fontsize=11)
        figure.text(*layout.heading(column, 1), detail, ha="center", fontsize=9.5)
    for row, plane in enumerate(layout.planes):
        figure.text(*layout.row_name(row), plane.name, ha="center", va="center", fontsize=11, rotation=90)
    # File names may hold a dollar sign, matplotlib's sign for formulas.
    for number, line in enumerate(layout.title_lines):
        figure.text(*layout.title_line(number), line, va="top", fontsize=14, fontweight="bold", parse_math=False)
    for number, line in enumerate(layout.subtitle_lines):
        figure.text(*layout.subtitle_line(number), line, va="top", fontsize=11, parse_math=False)


def _scale_bar(figure: Figure, layout: Layout) -> None:
    """Below column 1: a bar of a round length, at most 0.8 inches."""
    longest = 0.8 / layout.scale
    power = 10.0 ** math.floor(math.log10(longest))
    length = max(digit * power for digit in (1, 2, 5) if digit * power <= longest)
    x, y = layout.legend(0)
    figure.add_artist(Line2D([x, x + length * layout.scale / layout.width], [y, y], color="black", linewidth=2))
    figure.text(x, y - 0.05 / layout.height, f"{length:g} mm", va="top", fontsize=9.5)


def _ends(axes: Axes, plane: Plane) -> None:
    """Name the anatomical direction at each edge."""
    places = [(0.03, 0.5, "left", "center"), (0.97, 0.5, "right", "center")]
    places += [(0.5, 0.97, "center", "top"), (0.5, 0.03, "center", "bottom")]
    for letter, (x, y, horizontal, vertical) in zip(plane.ends, places, strict=True):
        text = axes.text(x, y, letter, ha=horizontal, va=vertical, transform=axes.transAxes)
        text.set(fontsize=9.5, fontweight="bold", color="white")
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])
