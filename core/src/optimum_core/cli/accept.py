"""`optimum-core accept`: state that files beside a saved model were changed on purpose."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def accept(
    directory: Annotated[Path, typer.Argument(help="A directory written by `accelerate` or `save_pretrained`.")],
) -> None:
    """Accept a tokenizer, processor or settings that were changed in an artifact on purpose.

    The model's own files have to be those that were compared; only what lies beside them may differ, and nothing that
    the graph has built in, such as a sentence encoder's pooling.
    """
    from optimum_core.cli.console import make_console, tell
    from optimum_core.runtime.accepting import accept as accept_files

    changed = accept_files(directory)
    told = f"Accepted as they are: {', '.join(changed)}" if changed else "Nothing differs from the manifest"
    if "config.json" in changed:
        told += ". Of config.json, names of classes and settings of calls count; the graph stays as it was built"
    tell(make_console(sys.stdout), told)
