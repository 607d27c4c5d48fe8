"""A gallery: one lesion of each kind and size that a preset can draw, alone and close up, before and after, with its record."""

import math
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpu_synth.preview.slices import ABDOMEN_HU, DPI, TUMOR_COLOUR, contour, show
from gpu_synth.preview.specimens import Made

FIELD_RADII, LEAST_FIELD_MM = 5.0, 24.0  # what a cell shows of the scan
LEGEND = "r: radius asked for → come out, of the ball of as much volume; HU: mean change; depth below the organ's surface"
PANELS = ("healthy", "with the lesion", "its outline")
PANEL_INCH, CAPTION_INCH, GAP_INCH, HEAD_INCH, SIDE_INCH = 1.45, 0.3, 0.14, 0.9, 0.32


def gallery(rows: Sequence[Sequence[Made]], title: str, spacing_mm: Sequence[float], window_hu: tuple[float, float] = ABDOMEN_HU) -> Figure:
    """Draw specimens: rows are kinds, columns sizes, and in a cell a lesion alone and close up, with its record.

    Args:
        rows: From `make_specimens`.
        title: What stands above all; the window is added.
        spacing_mm: Of the scan that they were made in, along i, j, k.
        window_hu: HU shown as black and as white.
    """
    cell_wide, cell_high = len(PANELS) * PANEL_INCH + GAP_INCH, PANEL_INCH + CAPTION_INCH
    wide, high = SIDE_INCH + max(2, len(rows[0])) * cell_wide, HEAD_INCH + len(rows) * cell_high
    figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)
    title = f"{title}; window {_hu(window_hu[0])} to {_hu(window_hu[1])} HU"
    for down, text, size in ((0.08, title, 11), (0.29, LEGEND, 8)):
        figure.text(0.1 / wide, 1 - down / high, text, color="white", fontsize=size, va="top")
    for y, row in enumerate(rows):
        top = HEAD_INCH + y * cell_high
        if len({made.specimen.kind for made in row}) == 1:
            middle = 1 - (top + PANEL_INCH / 2) / high
            figure.text(0.1 / wide, middle, row[0].specimen.kind, color="white", fontsize=10, rotation=90, va="center")
        for x, made in enumerate(row):
            left = SIDE_INCH + x * cell_wide
            _draw_cell(figure, (left, top), made, spacing_mm, window_hu, heads=y == 0)
    return figure


def caption(made: Made) -> str:
    """Tell a lesion's kind and record in a line."""
    if made.why_not:
        return f"{made.specimen.kind}, r {made.specimen.radius_mm:.1f} mm"
    asked, record = made.asked, made.record
    radius_mm = asked["radius_mm"] if "radius_mm" in asked else math.prod(asked["radii_mm"]) ** (1 / 3)
    change_hu = _hu(-record["mean_drop_hu"], "+")
    parts = [f"{made.specimen.kind}, r {radius_mm:.1f} → {record['equivalent_radius_mm']:.1f} mm", f"{change_hu} HU"]
    if "contrast_to_noise" in record:
        parts.append(f"{record['contrast_to_noise']:.1f} × noise")
    return ", ".join([*parts, "cut by the border" if record["cut_by_border"] else f"{record['surface_mm']:.0f} mm deep"])


def _hu(hu: float, sign: str = "") -> str:
    return f"{hu:{sign}.0f}".replace("-", "−")


def _draw_cell(
    figure: Figure, at_inch: tuple[float, float], made: Made, spacing_mm: Sequence[float], window_hu: tuple[float, float], heads: bool
) -> None:
    """Three panels side by side and a caption; placed in inches, so that nothing moves with what a cell holds."""
    (left, top), (wide, high) = at_inch, figure.get_size_inches()
    field_mm = max(FIELD_RADII * made.specimen.radius_mm, LEAST_FIELD_MM)
    if heads:
        head = f"{made.specimen.size}; {field_mm:.0f} mm across"
        figure.text(left / wide, 1 - (top - 0.2) / high, head, color="white", fontsize=10, va="bottom")
    figure.text(left / wide, 1 - (top + PANEL_INCH + 0.04) / high, caption(made), color="white", fontsize=8, va="top")
    if made.why_not:
        figure.text((left + 0.1) / wide, 1 - (top + PANEL_INCH / 2) / high, made.why_not, color="white", fontsize=9, va="center")
    extent = (made.healthy_hu.shape[0] * spacing_mm[0], made.healthy_hu.shape[1] * spacing_mm[1])
    for n, name in enumerate(PANELS):
        place = ((left + n * PANEL_INCH) / wide, 1 - (top + PANEL_INCH) / high, (PANEL_INCH - 0.02) / wide, (PANEL_INCH - 0.02) / high)
        panel = figure.add_axes(place, facecolor="#202020", xticks=[], yticks=[])
        if heads:
            panel.set_title(name, color="white", fontsize=8, loc="left", pad=3)
        if made.why_not:
            continue
        show(panel, made.image_hu if n else made.healthy_hu, extent, window_hu)
        panel.set_xlim(made.middle_mm[0] + field_mm / 2, made.middle_mm[0] - field_mm / 2)
        panel.set_ylim(made.middle_mm[1] - field_mm / 2, made.middle_mm[1] + field_mm / 2)
        if name == PANELS[-1]:
            contour(panel, made.tumor, extent, TUMOR_COLOUR, 0.8)
