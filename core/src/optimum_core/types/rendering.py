"""A report for people: as text, as Markdown, as a picture. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimum_core.types.results import CandidateResult, Report, Trial

_BAR, _ROW, _LABELS, _MARGIN = 380, 26, 330, 16
_COLOURS = {"chosen": "#1a7f5a", "slower": "#8aa0b5"}


def header(report: Report) -> list[str]:
    """The columns of a report's table."""
    return ["", "candidate", *(f"{shape} ms (p95)" for shape in report.workload), *_REST]


_REST = ("items/s", "size", "memory", "error", "build s", "load s", "why")


def rows(report: Report) -> list[list[str]]:
    """One row a candidate, in the report's order."""
    return [_row(item, report.workload) for item in report.candidates]


def _row(item: CandidateResult, workload: Sequence[str]) -> list[str]:
    times = {measured.shape: f"{measured.median:.2f} ({measured.p95:.2f})" for measured in item.measurements}
    worst = item.fidelity.worst if item.fidelity else None
    busiest = max((measured.throughput for measured in item.measurements), default=None)
    return [
        {"chosen": "►", "slower": "·", "skipped": " "}.get(item.outcome, "✗"),
        item.name,
        *(times.get(shape, "–") for shape in workload),
        _number(busiest, "{:.0f}"),
        _bytes(item.size),
        _bytes(item.memory),
        _number(worst.relative_error if worst else None, "{:.1e}"),
        _number(item.build_seconds, "{:.1f}"),
        _number(item.load_seconds, "{:.1f}"),
        f"{item.outcome}: {item.reason}",
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _bytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**20:.0f} MiB"


def title(report: Report) -> str:
    """One line: what was accelerated, for what, and how long the search took."""
    cached = ", from the cache" if report.from_cache else ""
    return f"{report.model} ({report.task}), for {report.objective}; searched {report.seconds:.0f} s{cached}"


WALK_HEADER = ("", "recipe", "metric", "drop", "ms", "times eager", "size", "s", "why")
_WALK_MARKS = {"kept": "►", "broken": "✗", "failed": "✗"}


#: So many recipes that were skipped for one reason, one after the other, are told one by one.
_TOLD = 3


def brief(walk: Sequence[Trial]) -> list[Trial]:
    """The walk as people read it: many in a row that were skipped for the same reason are one line."""
    told: list[Trial] = []
    for (outcome, _reason), group in groupby(walk, key=lambda trial: (trial.outcome, trial.reason)):
        trials = list(group)
        if outcome == "skipped" and len(trials) > _TOLD:
            trials = [replace(trials[0], name=f"{len(trials)} more", config={})]
        told += trials
    return told


def walk_rows(report: Report) -> list[list[str]]:
    """One row a recipe of the walk, in the order in which they were tried."""
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
    """What was promised and whether it is kept, in one line; empty where nothing was."""
    promise = report.promise
    if promise is None:
        return ""
    end = "kept" if promise.kept else "not kept by any quantized model, so this one is not quantized"
    allowed = f"{promise.baseline:.4f} eager, may drop by {promise.max_drop}"
    return f"Promise: {promise.metric} on {promise.data}, {allowed}; {end}"


def to_text(report: Report) -> str:
    """Aligned tables: what was tried, and where the model was quantized, the walk."""
    lines = [title(report), *_aligned([header(report), *rows(report)])]
    if report.walk or report.promise:
        lines += ["", *filter(None, [promise_words(report)]), *report.notes]
    if report.walk:
        lines += _aligned([[*WALK_HEADER], *walk_rows(report)])
    return "\n".join(lines)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in table
    ]


def to_markdown(report: Report) -> str:
    """A table for an issue or a page."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
        return [line(head), line(["---"] * len(head)), *map(line, body), ""]

    lines = [f"**{title(report)}**", "", *table(header(report), rows(report))]
    if report.walk or report.promise:
        lines += [f"{'. '.join([*filter(None, [promise_words(report)]), *report.notes])}.", ""]
    if report.walk:
        lines += table(WALK_HEADER, walk_rows(report))
    return "\n".join(lines)


def to_svg(report: Report) -> str:
    """A bar chart of the median times, a group a shape; on a scale of its own for each shape, so that all are seen."""
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
