"""Output helpers of all pages: lines that wrap with their indent, aligned rows, and text for any terminal.

Pages are plain aligned lines, not tables of rich: they paste into a bug report without trailing blanks, and a long
name wraps without breaking up its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

Part = str | tuple[str, str]

GOOD, BAD, NONE, OFF = "✓", "✗", "–", "○"

_ASCII = str.maketrans(
    {"✓": "+", "✗": "x", "–": "-", "—": "-", "○": "o", "→": "->", "·": "|", "×": "x", "…": "...", "µ": "u", "’": "'"}
)
# Text comes from plugins and from artifacts of unknown origin: it must not be able to control the terminal.
_CONTROLS = {code: "?" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}
_NARROWEST = 20


def make_console(stream: TextIO) -> Console:
    """Return a console that shows text unchanged: without markup, emoji codes or automatic highlighting."""
    return Console(file=stream, markup=False, emoji=False, highlight=False)


def clean(console: Console, text: str) -> str:
    """Return the text without control characters, and in ASCII where the terminal supports no more."""
    text = text.translate(_CONTROLS)
    return text.translate(_ASCII).encode("ascii", "replace").decode() if console.options.ascii_only else text


def words(console: Console, *parts: Part) -> Text:
    """Return a text of several parts: each a string, or a string with its style."""
    text = Text()
    for part in parts:
        content, style = part if isinstance(part, tuple) else (part, "")
        text.append(clean(console, content), style)
    return text


def tell(console: Console, text: str, end: str = "\n") -> None:
    """Print one line, however long, so that it can be searched for and copied."""
    console.print(words(console, text), soft_wrap=True, end=end)


def put(console: Console, *parts: Part, indent: int = 0) -> None:
    """Print a paragraph; all of its lines start at `indent`."""
    _hang(console, words(console, " " * indent), words(console, *parts))


def put_line(console: Console, line: Text, *, indent: int) -> None:
    """Print a text; where it is too long for one line, the rest starts at `indent`."""
    head, *rest = _wrap(console, line, console.width)
    _emit(console, head)
    if rest:
        _hang(console, Text(" " * indent), Text(" ").join(rest))


def put_rows(console: Console, rows: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
    """Print labels on the left, and texts in one column beside them."""
    given = [(words(console, label), text) for label, text in rows]
    widest = max((label.cell_len for label, _ in given), default=0)
    for label, text in given:
        label.stylize("dim")
        label.pad_right(widest - label.cell_len + 2)
        _hang(console, words(console, " " * indent) + label, words(console, text))


def put_table(console: Console, head: Sequence[str], rows: Iterable[tuple[Part, Sequence[Part]]]) -> None:
    """Print a table with a first column that wraps, and right-aligned columns that do not.

    Args:
        rows: a mark, and the cells.
    """
    made = [(words(console, mark, " "), [words(console, cell) for cell in cells]) for mark, cells in rows]
    title = [words(console, (cell, "dim")) for cell in head]
    lines = [(words(console, "  "), title), *made]
    widths = [max(cells[column].cell_len for _, cells in lines) for column in range(len(head))]
    first = max(_NARROWEST, min(widths[0], console.width - 2 - sum(2 + width for width in widths[1:])))
    for mark, cells in lines:
        start, *rest = _wrap(console, cells[0], first)
        start.pad_right(first - start.cell_len)
        for cell, width in zip(cells[1:], widths[1:], strict=True):
            start.append(" " * (2 + width - cell.cell_len))
            start.append_text(cell)
        _emit(console, mark + start)
        for line in rest:
            _emit(console, words(console, "  ") + line)


def put_items(console: Console, items: Iterable[str]) -> None:
    """Print short texts one after another, without breaking any of them between two lines."""
    line = Text()
    for item in items:
        text = words(console, " · ", item) if line else words(console, item)
        if line and line.cell_len + text.cell_len > console.width:
            _emit(console, line)
            line, text = Text(), words(console, item)
        line.append_text(text)
    if line:
        _emit(console, line)


def table_width(columns: Iterable[Iterable[str]]) -> int:
    """Return the width that columns other than the first take in `put_table`."""
    return sum(2 + max(map(cell_len, cells)) for cells in columns)


def _hang(console: Console, start: Text, text: Text) -> None:
    """Print a paragraph whose first line follows `start` and whose other lines are indented by its width."""
    indent = start.cell_len
    for number, line in enumerate(_wrap(console, text, console.width - indent)):
        _emit(console, (start if number == 0 else Text(" " * indent)) + line)


def _wrap(console: Console, text: Text, width: int) -> list[Text]:
    return list(text.wrap(console, max(_NARROWEST, width))) or [Text()]


def _emit(console: Console, line: Text) -> None:
    line.rstrip()
    console.print(line, soft_wrap=True)
