"""Horizontal bars as SVG, by hand: no script, no font of its own, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

import msgspec

from tests.bench.figures import shown

Kind = Literal["ours", "other", "missed"]

_AXIS, _VALUES, _MARGIN, _LETTER = 420, 120, 16, 6.9
_BAR, _STEP, _HEAD, _FOOT = 16, 24, 62, 44
# The page's own theme is not known inside of an image: a card of its own colour carries its text.
_STYLE = """
.card{fill:#fff;stroke:#d0d7de}.back{fill:#fff}.text{fill:#1f2328}.faint{fill:#59636e}
.grid{stroke:#d8dee4}.mark{stroke:#1f2328}
.ours{fill:#1a7f5a}.other{fill:#8c959f}.missed{fill:#c2410c}
@media (prefers-color-scheme:dark){.card{fill:#0d1117;stroke:#3d444d}.back{fill:#0d1117}.text{fill:#f0f6fc}
.faint{fill:#9198a1}.grid{stroke:#2a313c}.mark{stroke:#f0f6fc}.ours{fill:#3fb98a}.other{fill:#6e7681}.missed{fill:#f0883e}}
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}.title{font-size:16px;font-weight:600}
"""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar. ``mark`` is a target of its own, drawn as a line across it. Without a value it is a heading."""

    label: str
    value: float | None = None
    kind: Kind = "ours"
    mark: float | None = None


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """``log``: a logarithmic axis, which the chart says; else it begins at zero. ``line`` is drawn through all bars."""

    title: str
    caption: str
    unit: str
    bars: tuple[Bar, ...]
    log: bool = False
    line: float | None = None


def draw(chart: Chart) -> str:
    """The whole file."""
    height = _HEAD + _STEP * len(chart.bars) + _FOOT
    left = labels(chart)
    width = left + _AXIS + _VALUES
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    low, high = limits(chart)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(chart.title)}>',
            f"<style>{_STYLE}</style>",
            f'<rect class="card" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6"/>',
            _text(_MARGIN, 28, chart.title, "title text"),
            _text(_MARGIN, 48, chart.caption, "faint"),
            f'<g transform="translate({left} {_HEAD})">',
            *_grid(chart, low, high, _STEP * len(chart.bars)),
            *_line(chart, low, high, _STEP * len(chart.bars)),
            *(part for place, bar in enumerate(chart.bars) for part in _bar(chart, bar, place, low, high)),
            "</g>",
            _text(_MARGIN, height - 12, _axis_said(chart), "faint"),
            "</svg>\n",
        ]
    )


def labels(chart: Chart) -> int:
    """How wide the longest label is, about: no font is measured here. No narrower than leaves room for the title."""
    return round(max(220.0, 2 * _MARGIN + _LETTER * max(len(bar.label) for bar in chart.bars)))


def limits(chart: Chart) -> tuple[float, float]:
    """Where the axis begins and ends."""
    values = [one for bar in chart.bars for one in (bar.value, bar.mark) if one is not None]
    values += [chart.line] if chart.line is not None else []
    if not chart.log:
        return 0.0, max(values) or 1.0
    positive = [value for value in values if value > 0]
    return 10.0 ** math.floor(math.log10(min(positive) * 0.999)), 10.0 ** math.ceil(math.log10(max(positive)))


def position(value: float, low: float, high: float, *, log: bool) -> float:
    """Pixels from the axis's beginning."""
    if log:
        return _AXIS * (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
    return _AXIS * (value - low) / (high - low)


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Powers of ten; or some round steps from zero."""
    if log:
        return [10.0**power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    step = 10.0 ** math.floor(math.log10(high))
    step = next(one for one in (step / 5, step / 2, step, step * 2) if high / one <= 6)
    return [step * number for number in range(int(high / step) + 1)]


def _grid(chart: Chart, low: float, high: float, bottom: float) -> Iterator[str]:
    for tick in ticks(low, high, log=chart.log):
        x = position(tick, low, high, log=chart.log)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="-4" y2="{bottom}"/>'
        yield _text(x, bottom + 14, shown(tick), "faint", "middle")


def _bar(chart: Chart, bar: Bar, place: int, low: float, high: float) -> Iterator[str]:
    y = _STEP * place
    if bar.value is None:
        yield _text(-8, y + 13, bar.label, "faint", "end")
        return
    width = max(1.0, position(bar.value, low, high, log=chart.log))
    yield _text(-8, y + 13, bar.label, "text", "end")
    yield f'<rect class="{bar.kind}" x="0" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
    end = width
    if bar.mark is not None:
        x = position(bar.mark, low, high, log=chart.log)
        yield _stroke(x, y - 3, y + _BAR + 3)
        end = max(width, x)
    said = f"{shown(bar.value)} {chart.unit}".rstrip()
    # Over the lines that it crosses.
    yield f'<rect class="back" x="{end + 4:.1f}" y="{y}" width="{_LETTER * len(said) + 4:.1f}" height="{_BAR}"/>'
    yield _text(end + 6, y + 13, said, "text")


def _line(chart: Chart, low: float, high: float, bottom: float) -> Sequence[str]:
    if chart.line is None:
        return []
    return [_stroke(position(chart.line, low, high, log=chart.log), -8, bottom)]


def _stroke(x: float, top: float, bottom: float) -> str:
    return f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke-width="2"/>'


def _axis_said(chart: Chart) -> str:
    said = "logarithmic axis: each line is ten times the one before" if chart.log else "axis from zero"
    if chart.line is not None:
        return f"{said}; the line across is {shown(chart.line)} {chart.unit}"
    return f"{said}; the line across a bar is its target" if any(bar.mark is not None for bar in chart.bars) else said


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
