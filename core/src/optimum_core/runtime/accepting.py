"""Acceptance of changed files beside a model, except of what the graph has built in, which would go on as before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from optimum_core.artifact import Manifest
from optimum_core.artifact.embedding import MODULES, SENTENCE, TOKENS
from optimum_core.artifact.store import accept as accept_files
from optimum_core.errors import ArtifactError, SourceError
from optimum_core.models.sources.agreement import check_generator, check_outputs, read_description
from optimum_core.models.sources.sentences.stored import SAFETENSORS

_CONFIG, _HIDDEN_STATE = "config.json", "last_hidden_state"
#: Settings for the width of what is computed from hidden states ("word_embed_proj_dim", "projection_dim").
_PROJECTED = re.compile(r".*proj(ection)?_(dim|size)|output_(dim|size|hidden_size)|d_model")
_REMEDY = "restore the file, or accelerate the model with that change"


def accept(directory: Path) -> tuple[str, ...]:
    """State that the files beside a saved model are as they are meant, and return the names of those that differed.

    Raises:
        ArtifactError: a file of the model itself differs, or one states what the graph has built in otherwise.
    """
    return accept_files(directory, check=lambda manifest, changed: _check(directory, manifest, changed))


def _check(directory: Path, manifest: Manifest, changed: Sequence[str]) -> None:
    who, outputs = f"artifact {directory}", {spec.name for spec in manifest.outputs}
    for name in changed if SENTENCE in outputs else ():
        path = PurePosixPath(name)
        if name == MODULES or (path.name in (_CONFIG, SAFETENSORS) and path.parent != PurePosixPath(".")):
            why = f"the file {name!r} differs, and what it holds is built into the graph, which would go on as before"
            raise ArtifactError(who, why, _REMEDY)
    if _CONFIG not in changed:
        return
    try:
        described = read_description(directory)
        check_outputs(described, manifest.task, manifest.outputs, who)
        check_generator(described, manifest.artifact(directory), who)
    except SourceError as error:
        raise ArtifactError(who, error.why, _REMEDY) from error
    stated = described.get("hidden_size")
    for spec in manifest.outputs:
        width = spec.shape[-1] if spec.name in (TOKENS, _HIDDEN_STATE) and len(spec.shape) == 3 else stated
        if isinstance(stated, int) and isinstance(width, int) and width not in _widths(described, stated):
            why = f"{_CONFIG} states hidden_size={stated}, and the graph gives vectors of {width}, as it was built"
            raise ArtifactError(who, why, _REMEDY)


def _widths(described: Mapping[str, Any], hidden: int) -> set[int]:
    """Return the widths that a configuration allows for hidden states: Reformer puts two side by side, and models such
    as OPT-350m project theirs to another width, which a setting of its own states."""
    stated = (value for name, value in described.items() if _PROJECTED.fullmatch(name))
    return {hidden, 2 * hidden, *(value for value in stated if isinstance(value, int))}
