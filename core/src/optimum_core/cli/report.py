"""The page of a report: what was tried, how fast and how true each is, and why this one; and of a saved artifact."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console

from optimum_core.artifact import Manifest
from optimum_core.cli.paper import BAD, GOOD, NONE, Part, put, put_rows, put_table, table_room
from optimum_core.cli.values import latency_words, seconds_words, size_words
from optimum_core.hardware import describe
from optimum_core.types import CandidateResult, Fidelity, Report, Step

_MARKS = {"chosen": (GOOD, "green"), "slower": (" ", ""), "wrong": (BAD, "red"), "failed": (BAD, "red")}
_SKIPPED = (NONE, "dim")
#: Columns for a candidate's name before the shapes of the workload are spread over several tables.
_NAME_WIDTH = 24
_LATENCY_WIDTH = 7
_MISSING = "–"


def show_report(console: Console, report: Report) -> None:
    """Every candidate: the measured ones as a table, the others with what became of them; then why this one."""
    put(console, (report.model, "bold"), f" · {report.task} · {_count(len(report.candidates), 'candidate')} tried")
    if report.from_cache:
        put(console, ("measured in an earlier run and kept", "dim"))
    console.print()
    measured = [item for item in report.candidates if item.measurements]
    if measured:
        for shapes, extras in _tables(console, report.workload, measured):
            _show_table(console, measured, report.chosen, shapes, extras)
            console.print()
    _show_reasons(console, [item for item in report.candidates if not item.measurements])
    if report.chosen is not None:
        _show_choice(console, report.chosen)


def show_artifact(console: Console, manifest: Manifest) -> None:
    """What a saved artifact is, what it was tuned on, and its report."""
    size = sum(entry.size for entry in manifest.files.values())
    machine = dict(describe(manifest.hardware))
    rows = [
        ("Runs on", f"{manifest.backend} {manifest.device}, {manifest.format}, {manifest.precision}"),
        ("Verified", _verified(manifest)),
        ("Size", f"{size_words(size)} in {_count(len(manifest.files), 'file')}"),
        *(("Step", _step_words(step)) for step in manifest.steps),
        ("Tuned on", "; ".join(machine[label] for label in ("System", "CPU", "Memory"))),
        *(("", machine[label]) for label, found in (("GPUs", manifest.hardware.gpus),) if found),
        ("Made with", ", ".join(f"{name} {version}" for name, version in manifest.created_with.items())),
    ]
    if manifest.report is not None:
        show_report(console, manifest.report)
    else:
        put(console, (manifest.model.name, "bold"), f" · {manifest.task} · no report was saved with it")
    console.print()
    put_rows(console, [row for row in rows if row[1]])


def _tables(
    console: Console, workload: Sequence[str], measured: Sequence[CandidateResult]
) -> Iterator[tuple[Sequence[str], bool]]:
    """The shapes in as many tables as the terminal's width asks for; the first has the other columns too."""
    named = dict.fromkeys((*workload, *(item.shape for result in measured for item in result.measurements)))
    shapes, extras = list(named), True
    while shapes:
        room = table_room(console, ("100.00×", "9.9e-99", "1023.9 MiB") if extras else (), _NAME_WIDTH)
        count = 0
        while count < len(shapes) and (room := room - 2 - max(_LATENCY_WIDTH, len(shapes[count]))) >= 0:
            count += 1
        count = max(1, count)
        yield shapes[:count], extras
        shapes, extras = shapes[count:], False


def _show_table(
    console: Console,
    measured: Sequence[CandidateResult],
    chosen: CandidateResult | None,
    shapes: Sequence[str],
    extras: bool,
) -> None:
    head = ["median latency", *shapes, *(("time", "error", "size") if extras else ())]
    rows: list[tuple[str, Sequence[Part]]] = []
    for item in measured:
        mark, style = _MARKS.get(item.outcome, _SKIPPED)
        medians = {entry.shape: latency_words(entry.median) for entry in item.measurements}
        cells = [item.name, *(medians.get(shape, _MISSING) for shape in shapes)]
        if extras:
            cells += [_ratio(item, chosen), _worst_error(item.fidelity), _MISSING if not item.size else ""]
            cells[-1] = cells[-1] or size_words(item.size or 0)
        bold = "bold" if item is chosen else ""
        rows.append((mark, [(cell, bold or style) for cell in cells]))
    put_table(console, head, rows)


def _ratio(item: CandidateResult, chosen: CandidateResult | None) -> str:
    """Its time over that of the chosen: the geometric mean over the shapes that both were measured at."""
    if chosen is None:
        return _MISSING
    own = {entry.shape: entry.median for entry in item.measurements}
    logs = [
        math.log(own[entry.shape] / entry.median)
        for entry in chosen.measurements
        if own.get(entry.shape, 0) > 0 and entry.median > 0
    ]
    return f"{math.exp(sum(logs) / len(logs)):.2f}×" if logs else _MISSING


def _worst_error(fidelity: Fidelity | None) -> str:
    worst = fidelity.worst if fidelity is not None else None
    return _MISSING if worst is None else _error_words(worst.relative_error)


def _error_words(error: float) -> str:
    return "0" if error == 0 else f"{error:.1e}"


def _show_reasons(console: Console, results: Sequence[CandidateResult]) -> None:
    for item in results:
        mark, style = _MARKS.get(item.outcome, _SKIPPED)
        put(console, (f"{mark} ", style), item.name, (f"  {item.outcome}", style))
        put(console, item.reason, indent=4)
    if results:
        console.print()


def _show_choice(console: Console, chosen: CandidateResult) -> None:
    costs = [
        f"built in {seconds_words(chosen.build_seconds)}" if chosen.build_seconds is not None else "",
        f"loads in {seconds_words(chosen.load_seconds)}" if chosen.load_seconds is not None else "",
    ]
    told = "".join(f", {text}" for text in costs if text)
    put(console, (f"{GOOD} ", "green"), (chosen.name, "bold"), f": {chosen.reason}{told}")
    put(console, fidelity_words(chosen.fidelity), indent=2)


def fidelity_words(fidelity: Fidelity | None) -> str:
    """What was compared with the eager model, to which tolerance, and how far off the worst was."""
    worst = fidelity.worst if fidelity is not None else None
    if fidelity is None or worst is None:
        return "Nothing was compared with the eager model."
    cases = _count(len({item.case for item in fidelity.results}), "case")
    outputs = _count(len({item.output for item in fidelity.results}), "output")
    where = " (the graph, not on the device)" if fidelity.level == "graph" else ""
    verdict = "agrees with" if fidelity.passed else "DIFFERS FROM"
    return (
        f"It {verdict} the eager model{where} in {cases}, {outputs}; tolerance {fidelity.tolerance:.1e} for "
        f"{fidelity.precision}, worst error {_error_words(worst.relative_error)} ({worst.output}; {worst.case})."
        f"{' ' + worst.problem if worst.problem else ''}"
    )


def _verified(manifest: Manifest) -> str:
    if not manifest.verified:
        return "no: these files were not compared with the eager model"
    return "yes, these very files" if manifest.report is not None else fidelity_words(manifest.fidelity)


def _step_words(step: Step) -> str:
    options = ", ".join(f"{key}={value}" for key, value in step.options.items())
    return f"{step.hook} by {step.backend} ({f'{step.tool} {step.version}'.strip()}){': ' + options if options else ''}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
