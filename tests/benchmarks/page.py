"""A measurement's table, on the terminal and in Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The section of one measurement.

    Attributes:
        name: as in `--only`.
        notes: how it was measured, and the targets it meets or misses.
    """

    name: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def show(console: Console, page: Page) -> None:
    """The page as a table of rich."""
    table = Table(title=Text(page.title, "bold"), title_justify="left", header_style="dim")
    for number, text in enumerate(page.head):
        table.add_column(Text(text), justify="right" if number else "left")
    for row in page.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for note in page.notes:
        console.print(Text(note, "dim"))
    console.print()


def markdown(page: Page) -> str:
    """The page as a heading, a table and its notes."""
    lines = [f"## {page.title}", "", _line(page.head), _line(("---", *("--:" for _ in page.head[1:])))]
    lines += [_line(row) for row in page.rows]
    for note in page.notes:
        lines += ["", note]
    return "\n".join(lines)


def write_region(file: Path, name: str, text: str) -> None:
    """Put `text` between the markers of that name; they are added at the end where the file has none."""
    begin, end = f"<!-- {name}: written by make bench -->", f"<!-- end of {name} -->"
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2] if found else ""
    if not found:
        before = before.rstrip("\n") + "\n\n" if before.strip() else ""
        after = "\n"
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
