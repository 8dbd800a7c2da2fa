"""`optimum-core retune`: measure a saved artifact anew on this machine, for the shapes that really come."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from optimum_core.cli.arguments import typed
from optimum_core.errors import OptionError


def retune(
    directory: Annotated[Path, typer.Argument(help="A directory written by `accelerate` or `save_pretrained`.")],
    traffic: Annotated[Path | None, typer.Option(help="Shapes that came, as a server writes them.")] = None,
    shapes: Annotated[str | None, typer.Option(help="Or shapes to be fast at, batch x sequence: 1x16,8x128.")] = None,
    out: Annotated[Path | None, typer.Option(help="Save there instead of in DIRECTORY.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32 unless said; auto lets what is fast and true compete.")
    ] = None,
) -> None:
    """Find the fastest way to run an artifact on this machine, and keep it. Needs neither torch nor the original."""
    from optimum_core import load
    from optimum_core.cli.console import make_console, tell
    from optimum_core.cli.report import show_report
    from optimum_core.cli.values import parse_shapes

    if traffic is not None and shapes is not None:
        raise OptionError("retune", "both --traffic and --shapes came", "give one of them")
    stated = typed(parse_shapes, shapes, "--shapes") if shapes is not None else None
    workload = stated if traffic is None else _shapes_of(traffic, directory)
    place = out or directory
    with load(directory, retune=True, shapes=workload, precision=precision) as model:
        model.save_pretrained(place)
        console = make_console(sys.stdout)
        if model.report is not None:
            show_report(console, model.report)
    tell(console, f"Saved to {place}")


def _shapes_of(traffic: Path, directory: Path) -> tuple[dict[str, int], ...]:
    """Return the shapes of an artifact's calls in a file of traffic.

    Raises:
        OptionError: the file cannot be read, or is of other models.
        ArtifactError: there is no artifact.
    """
    from optimum_core.artifact import load
    from optimum_core.types import Traffic

    who = f"traffic {traffic}"
    try:
        text = traffic.read_bytes()
    except OSError as error:
        raise OptionError(
            who, f"it cannot be read: {error.strerror}", "name the file that the server writes"
        ) from error
    fingerprint = load(directory, verify_files=False).model.fingerprint
    return Traffic.from_json(text, who).of(fingerprint, f"artifact {directory}").shapes()
