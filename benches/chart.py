"""Line charts as SVG, without a library."""

import math
from dataclasses import dataclass
from html import escape

COLOURS = ["#2166ac", "#b2182b", "#4d9221", "#762a83"]
WIDTH, HEIGHT = 360, 250
LEFT, TOP, RIGHT, BOTTOM = 48, 30, 12, 38


@dataclass
class Series:
    points: list  # (x, y)
    colour: str
    name: str = ""  # in the legend; none if empty
    is_dots: bool = False  # a dot for each point instead of a line
    opacity: float = 1.0


@dataclass
class Panel:
    title: str
    x_name: str
    series: list
    from_zero: bool = False  # whether the axis of y begins at 0


def figure(panels: list, n_columns: int) -> str:
    """The panels row by row."""
    width, height = n_columns * WIDTH, math.ceil(len(panels) / n_columns) * HEIGHT
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>']
    for index, panel in enumerate(panels):
        x, y = index % n_columns * WIDTH, index // n_columns * HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{draw(panel)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def draw(panel: Panel) -> str:
    xs = [x for series in panel.series for x, _ in series.points]
    ys = [y for series in panel.series for _, y in series.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(0 if panel.from_zero else min(ys), max(ys))
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = y_ticks[0], y_ticks[-1]
    x = lambda value: LEFT + (WIDTH - LEFT - RIGHT) * (value - x_low) / (x_high - x_low)
    y = lambda value: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - y_low) / (y_high - y_low)
    parts = [f'<text x="{LEFT}" y="18" font-size="13">{escape(panel.title)}</text>',
             f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(panel.x_name)}</text>']
    for tick in y_ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 23}" text-anchor="middle">{tick:g}</text>')
    legend_x = LEFT
    for series in panel.series:
        places = [(f"{x(at):.1f}", f"{y(value):.1f}") for at, value in series.points]
        if series.is_dots:
            parts += [f'<circle cx="{at}" cy="{value}" r="3" fill="{series.colour}"/>' for at, value in places]
        else:
            parts.append(f'<polyline points="{" ".join(",".join(place) for place in places)}" fill="none" '
                         f'stroke="{series.colour}" stroke-width="1.6" opacity="{series.opacity}"/>')
        if series.name:
            parts.append(f'<text x="{legend_x}" y="{HEIGHT - 8}" fill="{series.colour}">{escape(series.name)}</text>')
            legend_x += 7 * len(series.name) + 12
    return "".join(parts)


def ticks(low: float, high: float, wanted: int = 5) -> list:
    """Round numbers that enclose both."""
    rough = max(high - low, 1e-9) / wanted
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def trailing_means(values: list, width: int) -> list:
    """Each value's mean with up to `width - 1` before it."""
    windows = [values[max(0, end - width):end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]
