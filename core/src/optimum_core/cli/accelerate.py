"""`optimum-core accelerate`: make a model fast on this machine, and save it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import typer

from optimum_core.cli.arguments import Verbose, typed
from optimum_core.cli.failure import is_verbose
from optimum_core.errors import ArtifactError, NoBackendWarning

ModelArgument = Annotated[str, typer.Argument(help="A directory, or a hub id.")]
Out = Annotated[str, typer.Argument(help="Where to save the artifact: a new or empty directory.")]
TargetOption = Annotated[str, typer.Option(help="auto, a backend, or backend:device.")]
Task = Annotated[str | None, typer.Option(help="What the model is for, where its config does not say.")]
Precision = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16; auto lets all compete. By default that of the weights.")
]
Objective = Annotated[str | None, typer.Option(help="latency (unless said), throughput, size or energy.")]
BudgetOption = Annotated[float | None, typer.Option(help="Seconds for building and checking what competes.")]
Level = Annotated[str | None, typer.Option(help="One optimization level of the backend of --target.")]
Quantize = Annotated[
    str | None, typer.Option(help="int8, int4, …, a scheme such as static-int8, a preset, or a recipe's YAML file.")
]
CalibrationOption = Annotated[
    Path | None, typer.Option(help="Typical texts: a line each (.txt), or rows (.jsonl, .csv).")
]
Evaluate = Annotated[
    Path | None, typer.Option(help="Labelled rows (.jsonl, .csv), for the recipe's metric, or accuracy.")
]
MaxDrop = Annotated[
    str | None, typer.Option(help="How much of the metric may be lost: 0.01, or 1% of the model's own.")
]
ShapesOption = Annotated[str | None, typer.Option(help="What to be fast at, batch x sequence: 1x16,8x128.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Do not compare with the eager model; the artifact says so.")
]
BackendOptions = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="For the backend of --target; may be repeated.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Also save where there are files; unrelated ones are kept.")
]


def accelerate(
    model: ModelArgument,
    out: Out,
    target: TargetOption = "auto",
    task: Task = None,
    precision: Precision = None,
    objective: Objective = None,
    budget: BudgetOption = None,
    level: Level = None,
    quantize: Quantize = None,
    calibration: CalibrationOption = None,
    evaluate: Evaluate = None,
    max_drop: MaxDrop = None,
    shapes: ShapesOption = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    option: BackendOptions = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Make a model fast on this machine, and save it."""
    from optimum_core.cli.data_files import read_rows
    from optimum_core.cli.values import not_empty, parse_options, parse_shapes

    settings: dict[str, Any] = {
        "target": target, "task": task, "precision": precision, "objective": objective, "budget": budget,
        "level": level, "quantize": quantize, "max_drop": max_drop, "revision": revision,
        "trust_remote_code": trust_remote_code, "verify": not no_verify,
        "shapes": None if shapes is None else typed(parse_shapes, shapes, "--shapes"),
        "options": typed(parse_options, option or [], "--option"),
    }  # fmt: skip
    place = Path(typed(not_empty, out, "OUT"))
    typed(not_empty, model, "MODEL")
    _check_destination(place, overwrite)
    settings["calibration"] = None if calibration is None else typed(read_rows, calibration, "--calibration")
    settings["evaluate"] = None if evaluate is None else typed(read_rows, evaluate, "--evaluate")
    _accelerate(model, place, settings, overwrite=overwrite)


def _accelerate(model: str, place: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Accelerate a model with a line of progress, save it, and show its report."""
    from optimum_core.cli.console import make_console, tell
    from optimum_core.cli.show import ProgressLine, show_report

    # Log lines and a spinner would overwrite each other.
    with ProgressLine(live=False if is_verbose() else None) as progress:
        from optimum_core import accelerate

        warnings.simplefilter("ignore", NoBackendWarning)  # the report's page shows this note
        fast = accelerate(model, progress=progress, **settings)
    fast.save_pretrained(place, overwrite=overwrite)
    console = make_console(sys.stdout)
    if fast.report is not None:
        show_report(console, fast.report)
    tell(console, f"Saved to {place}")


def _check_destination(out: Path, overwrite: bool) -> None:
    """Reject a destination that cannot be written, before minutes are spent on the model.

    Raises:
        ArtifactError: it is a file, is under one, is a directory that is not empty, or cannot be written.
    """
    who = f"output {out}"
    if out.is_dir() and not overwrite and any(out.iterdir()):
        raise ArtifactError(who, "the directory is not empty", "choose another place, or pass --overwrite")
    place = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not place.is_dir():
        raise ArtifactError(who, f"{place} is a file", "choose another place")
    try:
        TemporaryFile(dir=place).close()
    except OSError as error:
        raise ArtifactError(who, f"{place} cannot be written: {error.strerror}", "choose another place") from error
