"""The pages of a report (candidates, their times and fidelity, the choice) and of a saved artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from optimum_core.artifact import Manifest
from optimum_core.cli.console import BAD, GOOD, NONE, Part, put, put_rows, put_table, table_width
from optimum_core.cli.values import count, latency_words, seconds_words, size_words
from optimum_core.hardware import describe
from optimum_core.types import CandidateResult, Fidelity, Report, Step
from optimum_core.types.rendering import brief, joule_words, remarks, times_words

Column = tuple[str, list[str]]

_MARKS = {"chosen": (GOOD, "green"), "slower": (" ", ""), "wrong": (BAD, "red"), "failed": (BAD, "red")}
_TRIAL_MARKS = {"kept": (GOOD, "green"), "broken": (BAD, "red"), "failed": (BAD, "red"), "slow": (" ", "")}
_SKIPPED = (NONE, "dim")
#: Characters for a candidate's name below which the shapes of the workload are spread over several tables.
_NAME_WIDTH = 22
_MISSING = "–"
#: Seconds below which a duration is not shown: the eager model is "built" by leaving it unchanged.
_SHOWN_FROM_SECONDS = 0.001


def show_report(console: Console, report: Report) -> None:
    """Print the measured candidates as a table, the others with their outcome, then the reason for the choice."""
    put(console, (report.model, "bold"), f" · {report.task} · {count(len(report.candidates), 'candidate')} tried")
    if report.from_cache:
        put(console, ("measured in an earlier run and kept", "dim"))
    console.print()
    measured = [item for item in report.candidates if item.measurements]
    if measured:
        for columns in _tables(console, report, measured):
            _show_table(console, measured, report.chosen, columns)
            console.print()
    _show_reasons(console, [item for item in report.candidates if not item.measurements])
    for words in remarks(report):
        put(console, words)
    if report.walk:
        _show_walk(console, report)
    if report.chosen is not None:
        _show_choice(console, report.chosen)


def show_artifact(console: Console, manifest: Manifest) -> None:
    """Print a saved artifact: its description, the machine it was tuned on, and its report."""
    size = sum(entry.size for entry in manifest.files.values())
    machine = dict(describe(manifest.hardware))
    rows = [
        ("Runs on", f"{manifest.backend} {manifest.device}, {manifest.format}, {manifest.precision}"),
        *((("Quantized", manifest.quantized),) if manifest.quantized else ()),
        ("Verified", _verified(manifest)),
        ("Size", f"{size_words(size)} in {count(len(manifest.files), 'file')}"),
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


def _tables(console: Console, report: Report, measured: Sequence[CandidateResult]) -> Iterator[list[Column]]:
    """Yield the columns of as many tables as the terminal's width requires; the first also has the common columns."""
    shapes = dict.fromkeys((*report.workload, *(entry.shape for item in measured for entry in item.measurements)))
    columns: list[Column] = [(shape, [_latency(item, shape) for item in measured]) for shape in shapes]
    has_energy = any(entry.joules is not None for item in measured for entry in item.measurements)
    extras: list[Column] = [
        *([("mJ a call", [joule_words(item) for item in measured])] if has_energy else []),
        ("× eager", [times_words(report.times_eager(item)) for item in measured]),
        ("error", [_worst_error(item.fidelity) for item in measured]),
        ("size", [size_words(item.size) if item.size else _MISSING for item in measured]),
    ]
    while columns:
        room = console.width - 2 - _NAME_WIDTH - _width(extras)
        fit = sum(_width(columns[: number + 1]) <= room for number in range(len(columns)))
        yield columns[: max(1, fit)] + extras
        columns, extras = columns[max(1, fit) :], []


def _width(columns: Sequence[Column]) -> int:
    return table_width([head, *cells] for head, cells in columns)


def _show_table(
    console: Console, measured: Sequence[CandidateResult], chosen: CandidateResult | None, columns: Sequence[Column]
) -> None:
    rows: list[tuple[Part, Sequence[Part]]] = []
    for number, item in enumerate(measured):
        style = "bold" if item is chosen else ""
        texts = [item.name, *(cells[number] for _, cells in columns)]
        rows.append((_MARKS.get(item.outcome, _SKIPPED), [(text, style) for text in texts]))
    put_table(console, ["median latency", *(head for head, _ in columns)], rows)


def _latency(item: CandidateResult, shape: str) -> str:
    return next((latency_words(entry.median) for entry in item.measurements if entry.shape == shape), _MISSING)


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


def _show_walk(console: Console, report: Report) -> None:
    """Print every recipe that was tried, in order."""
    rows: list[tuple[Part, Sequence[Part]]] = []
    for trial in brief(report.walk):
        numbers = (
            _MISSING if trial.drop is None else f"{trial.drop:+.4f}",
            _MISSING if trial.milliseconds is None else latency_words(trial.milliseconds),
            times_words(trial.speedup),
            _MISSING if trial.size is None else size_words(trial.size),
            trial.outcome,
        )
        rows.append((_TRIAL_MARKS.get(trial.outcome, _SKIPPED), [trial.name, *numbers]))
    put_table(console, ["recipe", "drop", "time", "× eager", "size", ""], rows)
    for trial in report.walk:
        if trial.outcome == "failed":
            put(console, (f"{BAD} ", "red"), trial.name)
            put(console, trial.reason, indent=4)
    console.print()


def _show_choice(console: Console, chosen: CandidateResult) -> None:
    costs = (("built in", chosen.build_seconds), ("loads in", chosen.load_seconds))
    told = "".join(f", {verb} {seconds_words(cost)}" for verb, cost in costs if cost and cost > _SHOWN_FROM_SECONDS)
    put(console, (f"{GOOD} ", "green"), (chosen.name, "bold"), f": {chosen.reason}{told}")
    put(console, fidelity_words(chosen.fidelity), indent=2)


def fidelity_words(fidelity: Fidelity | None) -> str:
    """Return a description of the comparisons with the eager model, the tolerance, and the worst error."""
    worst = fidelity.worst if fidelity is not None else None
    if fidelity is None or worst is None:
        return "Nothing was compared with the eager model."
    cases = count(len({item.case for item in fidelity.results}), "case")
    outputs = count(len({item.output for item in fidelity.results}), "output")
    where = " (the graph, not on the device)" if fidelity.level == "graph" else ""
    verdict = "agrees with" if fidelity.passed else "DIFFERS FROM"
    if fidelity.formed:
        ranks = "" if worst.agreement is None else f", arg-max agrees on {worst.agreement:.1%}"
        return (
            f"On {worst.case}, {worst.output} is {_error_words(worst.relative_error)} off the eager model{where}, "
            f"norm by norm{ranks}; right in form in {count(fidelity.formed, 'drawn case')}."
            f"{' ' + worst.problem if worst.problem else ''}"
        )
    return (
        f"It {verdict} the eager model{where} in {cases}, {outputs}; tolerance {fidelity.tolerance:.1e} for "
        f"{fidelity.precision}, worst error {_error_words(worst.relative_error)} ({worst.output}; {worst.case})."
        f"{' ' + worst.problem if worst.problem else ''}"
    )


def _verified(manifest: Manifest) -> str:
    if not manifest.verified:
        return "no: these files were not compared with the eager model"
    if not manifest.model.has_original:
        return "against the file that was given, by its reference evaluator; unverified against an original"
    return "yes, these very files" if manifest.report is not None else fidelity_words(manifest.fidelity)


def _step_words(step: Step) -> str:
    options = ", ".join(f"{key}={value}" for key, value in step.options.items())
    return f"{step.hook} by {step.backend} ({f'{step.tool} {step.version}'.strip()}){': ' + options if options else ''}"
