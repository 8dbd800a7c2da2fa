"""The model that a quantizer or an optimizer of another package is given: a place, or a model of ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from optimum_core.artifact.names import is_artifact
from optimum_core.errors import OptionError


def original_of(who: str, given: Any, file_name: str | None = None) -> Any:
    """Return what to accelerate: a directory, a file, a hub's id, or what a model of ours was made from.

    Raises:
        OptionError: the model was loaded, so that what it was made from is not known.
    """
    from optimum_core import AcceleratedModel

    remedy = "give the checkpoint that it was made from"
    if isinstance(given, AcceleratedModel):
        source = given._source
        place = next((found for name in ("directory", "path") if (found := getattr(source, name, None))), None)
        if place is None:
            raise OptionError(who, "what this model was made from is not known here", remedy)
        return place
    if not isinstance(given, str | os.PathLike):
        raise OptionError(who, f"it was given a {type(given).__name__}", "give a directory, a hub id, or a model")
    if is_artifact(Path(given)):
        raise OptionError(who, f"{str(given)!r} holds a model that is accelerated already", remedy)
    return given if file_name is None else Path(given) / file_name
