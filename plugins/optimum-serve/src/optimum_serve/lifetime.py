"""The beginning and the end of an accelerated model at a server: the first text, and what waits at the end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from optimum_core import AcceleratedModel
from optimum_core.errors import OptimumError, OptionError
from optimum_serve.batcher import Batcher
from optimum_serve.writer import Writer

log = logging.getLogger(__name__)
_IDS = "input_ids"


def warm(model: AcceleratedModel, generation: Mapping[str, Any]) -> None:
    """Read and answer one text, so that the first request does not wait for what is loaded at the first text.

    Raises:
        OptionError: settings of generation, the model's own or the server's, cannot be honoured, so that no request
            could be answered.
    """
    if all(spec.name != _IDS for spec in model.manifest.inputs):
        return
    try:
        items = model.tokenize(["a"])
        if model.can_generate():
            next(iter(model.generate(["a"], stream=True, **generation, max_new_tokens=1)))
        else:
            model.map(items, progress=False)
    except OptionError:
        raise
    except OptimumError as error:
        log.info("no text was tried: %s", error)


def freed(model: AcceleratedModel | None, workers: Sequence[Batcher | Writer | None]) -> None:
    """Answer what waits, and free a model."""
    for worker in workers:
        if worker is not None:
            worker.close()
    if model is not None:
        model.close()


def proved_batch(model: AcceleratedModel) -> int:
    """Return the greatest batch with which the model was compared with the original."""
    axis = model.manifest.axes.get("batch")
    return axis.proved[1] if axis is not None and axis.proved is not None else sys.maxsize
