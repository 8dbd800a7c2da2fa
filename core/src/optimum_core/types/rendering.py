"""Rendering of a report as a line, text, Markdown, HTML or a chart. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from itertools import groupby
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimum_core.types.results import CandidateResult, Measurement, RecipeResult, Report

_BAR, _ROW, _LABELS, _MARGIN = 380, 26, 330, 16
_COLOURS = {"chosen": "#1a7f5a", "slower": "#8aa0b5"}


def header(report: Report, *, short: bool = False) -> list[str]:
    """Return the column titles of a report's table; `short` leaves out the p95, or the first token's time."""
    generates = any(measured.tokens for item in report.candidates for measured in item.measurements)
    unit, beside = ("tokens/s", " (first ms)") if generates else ("ms", " (p95)")
    unit += "" if short else beside
    return ["", "candidate", *(f"{shape} {unit}" for shape in report.workload), *_energy_title(report), *_REST]


_EAGER = "times eager"
_REST = (_EAGER, "items/s", "size", "memory", "error", "build s", "load s", "why")


def rows(report: Report, *, short: bool = False) -> list[list[str]]:
    """Return one row per candidate, in the report's order, for the columns of `header`."""
    return [_row(item, report, short) for item in report.candidates]


def _row(item: CandidateResult, report: Report, short: bool) -> list[str]:
    times = {measured.shape: _time_words(measured, short) for measured in item.measurements}
    worst = item.fidelity.worst if item.fidelity else None
    busiest = max((measured.throughput for measured in item.measurements), default=None)
    return [
        {"chosen": "►", "slower": "·", "skipped": " "}.get(item.outcome, "✗"),
        item.name,
        *(times.get(shape, "–") for shape in report.workload),
        *([joule_words(item)] if _energy_title(report) else []),
        times_words(report.times_eager(item)),
        _number(busiest, "{:.0f}"),
        _bytes(item.size),
        _bytes(item.memory),
        _number(worst.relative_error if worst else None, "{:.1e}"),
        _number(item.build_seconds, "{:.1f}"),
        _number(item.load_seconds, "{:.1f}"),
        f"{item.outcome}: {item.reason}",
    ]


def _energy_title(report: Report) -> list[str]:
    """Return the title of the column of energy, where any was measured."""
    return (
        ["mJ a call"] if any(one.joules is not None for item in report.candidates for one in item.measurements) else []
    )


def joule_words(item: CandidateResult) -> str:
    """Return the energy of a call in millijoules, the mean over the shapes, as text."""
    found = [(one.joules, one.calls or 1) for one in item.measurements if one.joules is not None]
    if not found:
        return "–"
    return f"{1e3 * sum(joules * calls for joules, calls in found) / sum(calls for _, calls in found):.3g}"


def energy_words(report: Report) -> str:
    """Return the constants behind an estimated energy; empty: it was counted, or there is none."""
    found = (one.joules_estimate for item in report.candidates for one in item.measurements)
    constants = next(filter(None, found), "")
    return f"mJ are estimated from this process's processor time by {constants}" if constants else ""


def _time_words(measured: Measurement, short: bool) -> str:
    """Return the time of a call with its p95; where it generates, its tokens per second with the time of the first."""
    if measured.first is None:
        time, beside = f"{measured.median:.2f}", f" ({measured.p95:.2f})"
    else:
        time, beside = _number(measured.tokens_per_second, "{:.1f}"), f" ({measured.first:.1f})"
    return time if short else time + beside


def times_words(ratio: float | None) -> str:
    """Return a speedup over eager as text, with the significant digits."""
    return "–" if ratio is None else f"{ratio:.2f}×" if ratio < 99.5 else f"{ratio:.0f}×"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _bytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**20:.0f} MiB"


def title(report: Report) -> str:
    """Return one line with the model, the objective and the duration of the search."""
    cached = ", from the cache" if report.from_cache else ""
    return f"{report.model} ({report.task}), for {report.objective}; searched {report.seconds:.0f} s{cached}"


WALK_HEADER = ("", "recipe", "metric", "drop", "ms", "times eager", "size", "s", "why")
_WALK_MARKS = {"kept": "►", "broken": "✗", "failed": "✗"}


#: Number of consecutive recipes skipped for the same reason up to which each is listed.
_TOLD = 3


def brief(walk: Sequence[RecipeResult]) -> list[RecipeResult]:
    """Return the walk with long runs of recipes skipped for the same reason merged into one line."""
    told: list[RecipeResult] = []
    for (outcome, _reason), group in groupby(walk, key=lambda trial: (trial.outcome, trial.reason)):
        trials = list(group)
        if outcome == "skipped" and len(trials) > _TOLD:
            trials = [replace(trials[0], name=f"{len(trials)} more", config={})]
        told += trials
    return told


def walk_rows(report: Report) -> list[list[str]]:
    """Return one row per recipe of the walk, in the order in which they were tried."""
    return [
        [
            _WALK_MARKS.get(trial.outcome, " "),
            trial.name,
            _number(trial.value, "{:.4f}"),
            _number(trial.drop, "{:+.4f}"),
            _number(trial.milliseconds, "{:.2f}"),
            _number(trial.speedup, "{:.2f}"),
            _bytes(trial.size),
            _number(trial.seconds or None, "{:.0f}"),
            f"{trial.outcome}: {trial.reason}",
        ]
        for trial in brief(report.walk)
    ]


def promise_words(report: Report) -> str:
    """Return one line with the promise and whether it is kept; empty where there is none."""
    promise = report.promise
    if promise is None:
        return ""
    end = "kept" if promise.kept else "not kept by any quantized model, so this one is not quantized"
    allowed = f"{promise.baseline:.4f} eager, may {'rise' if promise.rises else 'drop'} by {promise.max_drop}"
    return f"Promise: {promise.metric} on {promise.data}, {allowed}; {end}"


def token_words(report: Report) -> str:
    """Return one line with the nearness of the chosen generator's tokens; empty where it computes as eager does."""
    chosen = report.chosen
    if chosen is None or chosen.fidelity is None or chosen.precision == "fp32":
        return ""
    compared = [item for item in chosen.fidelity.results if item.divergence is not None and item.agreement is not None]
    if not compared:
        return ""
    text = compared[-1]
    agreed = f"{text.agreement:.1%} of the likeliest next tokens are eager's"
    return f"{agreed} ({text.case}), divergence {text.divergence:.2g} nats a token"


def remarks(report: Report) -> list[str]:
    """Return the lines beside the tables: the promise, the tokens, the notes, and the hint about another precision."""
    hint = report.precision_hint
    return [
        *filter(None, [promise_words(report), token_words(report), energy_words(report)]),
        *report.notes,
        *([str(hint)] if hint is not None else []),
    ]


def to_line(report: Report) -> str:
    """Return one line, for a prompt or a log."""
    chosen, many = report.chosen, len(report.candidates)
    if chosen is None:
        found = "none was chosen"
    else:
        ratio = report.times_eager(chosen)
        found = chosen.name if chosen.baseline or ratio is None else f"{chosen.name}, {ratio:.2f} times eager"
    tried = f"{many} candidate{'' if many == 1 else 's'}"
    return f"<report on {report.model} ({report.task}): {tried}, {found}>"


#: Columns left out on a narrow terminal, in the order in which they are dropped.
_LEFT_OUT = ("load s", "build s", "memory", "items/s", "size", "mJ a call", "error")
_NARROWEST = 40
_SHORTEST_NAME = 16


def to_text(report: Report, width: int | None = None) -> str:
    """Return aligned tables: the candidates and, where the model was quantized, the walk.

    Args:
        width: width of the longest line, at least 40; None: the terminal's, or 80 where there is none.
    """
    width = max(_NARROWEST, width or get_terminal_size((80, 24)).columns)
    short = not _fits(header(report), rows(report), width)
    lines = [*_wrapped(title(report), width), *_table(header(report, short=short), rows(report, short=short), width)]
    said = remarks(report)
    if said or report.walk:
        lines += ["", *(line for words in said for line in _wrapped(words, width))]
    if report.walk:
        lines += _table(WALK_HEADER, walk_rows(report), width)
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(text, width, break_on_hyphens=False)


def _fits(head: Sequence[str], body: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table fits without the columns that a narrow terminal leaves out, and the text below its rows."""
    kept = [place for place, name in enumerate(head[:-1]) if name not in _LEFT_OUT]
    return _width([[row[place] for place in kept] for row in (head, *body)]) <= width


def _table(head: Sequence[str], body: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table whose last column is free text, on separate lines below if the row lacks room."""
    table = [list(head), *map(list, body)]
    if _width(table) <= width:
        return _aligned(table)
    why = [row.pop() for row in table]
    for name in _LEFT_OUT:
        if _width(table) > width and name in table[0]:
            table = _without(table, table[0].index(name))
    table = _narrowed(table, width)
    lines = _aligned([[*row, ""] for row in table])
    under = [[], *(_wrapped(text, width - 4) for text in why[1:])]
    return [line for row, more in zip(lines, under, strict=True) for line in (row, *(f"    {text}" for text in more))]


def _narrowed(table: list[list[str]], width: int) -> list[list[str]]:
    """Shorten names, then drop shapes, until the table fits."""
    longest = max(len(row[1]) for row in table)
    room = max(_SHORTEST_NAME, longest - max(0, _width(table) - width))
    table = [[row[0], _shortened(row[1], room), *row[2:]] for row in table]
    while _width(table) > width and len(table[0]) > 3:
        table = _without(table, len(table[0]) - 2)
    return table


def _shortened(text: str, room: int) -> str:
    """Cut the middle out of a text that is too long: names differ at both ends."""
    half = (room - 1) // 2
    return text if len(text) <= room else f"{text[: room - 1 - half]}…{text[-half:]}"


def _without(table: list[list[str]], column: int) -> list[list[str]]:
    return [[*row[:column], *row[column + 1 :]] for row in table]


def _width(table: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(*table, strict=True)) - 2


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in table
    ]


def to_html(report: Report) -> str:
    """Return HTML tables for a notebook."""

    def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
        titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body)
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table>"

    parts = [f"<p><b>{escape(title(report))}</b></p>", table(header(report), rows(report))]
    parts += [f"<p>{escape(words)}</p>" for words in remarks(report)]
    if report.walk:
        parts.append(table(WALK_HEADER, walk_rows(report)))
    return "".join(parts)


def model_to_html(line: str, report: Report | None) -> str:
    """Return HTML for an accelerated model in a notebook: its repr and its report, collapsed."""
    folded = f"<details><summary>report</summary>{to_html(report)}</details>" if report is not None else ""
    return f"<p><code>{escape(line)}</code></p>{folded}"


def to_markdown(report: Report) -> str:
    """Return Markdown tables for an issue or a page."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
        return [line(head), line(["---"] * len(head)), *map(line, body), ""]

    lines = [f"**{title(report)}**", "", *table(header(report), rows(report))]
    if said := remarks(report):
        lines += [f"{'. '.join(said)}.", ""]
    if report.walk:
        lines += table(WALK_HEADER, walk_rows(report))
    return "\n".join(lines)


def to_svg(report: Report) -> str:
    """Return a bar chart of the median times, grouped by shape; each shape has its own scale, so all are visible."""
    timed = [item for item in report.candidates if item.measurements]
    lines: list[str] = []
    y = _MARGIN + _ROW
    for shape in report.workload:
        y = _group(lines, shape, timed, y)
    width = _LABELS + _BAR + 130
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + _MARGIN}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">'
    )
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    caption = f'<text x="{_MARGIN}" y="{_MARGIN + 6}" font-weight="600">{escape(title(report))}</text>'
    return "\n".join([head, background, caption, *lines, "</svg>", ""])


def _group(lines: list[str], shape: str, timed: Sequence[CandidateResult], y: int) -> int:
    bars = [(item, one.median) for item in timed for one in item.measurements if one.shape == shape]
    longest = max((median for _, median in bars), default=1.0)
    lines.append(f'<text x="{_MARGIN}" y="{y + 12}" fill="#555555">{escape(shape)}: median ms of one call</text>')
    y += _ROW - 6
    for item, median in bars:
        length = max(2.0, _BAR * median / longest)
        colour = _COLOURS.get(item.outcome, "#c9b8b8")
        name = item.name if len(item.name) <= 52 else item.name[:51] + "…"
        lines.append(f'<text x="{_LABELS - 6}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect x="{_LABELS}" y="{y + 2}" width="{length:.1f}" height="{_ROW - 10}" fill="{colour}"/>')
        lines.append(f'<text x="{_LABELS + length + 6:.1f}" y="{y + 13}">{median:.2f}</text>')
        y += _ROW - 6
    return y + 10
