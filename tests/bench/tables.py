"""Tables of figures, and of targets beside them."""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[str, ...]


def goal(what: str, wanted: str, measured: float, unit: str, *, low: float = 0.0, high: float = float("inf")) -> Row:
    return what, wanted, f"{measured:.3g} {unit}".rstrip(), "holds" if low <= measured <= high else "MISSED"


def shown(what: str, measured: float, unit: str) -> Row:
    return what, "", f"{measured:.3g} {unit}", ""


def text_of(title: str, about: dict[str, str], *tables: Sequence[Row]) -> str:
    lines = [title, ", ".join(f"{name}: {value}" for name, value in about.items()), ""]
    for table in tables:
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    return "\n".join(lines) + "\n"
