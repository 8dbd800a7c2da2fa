"""The beginning and the end of an accelerated model at a server: its threads, the first text, and what waits at the
end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core import AcceleratedModel
from optimum_core.errors import OptimumError, OptionError, UnavailableError, VerificationError
from optimum_core.types import ContinuousLimits
from optimum_serve.abilities import LOGITS, PIXELS, SOUNDS
from optimum_serve.batcher import Batcher, Limits
from optimum_serve.group import Group
from optimum_serve.metrics import ModelMetrics
from optimum_serve.settings import Settings
from optimum_serve.writer import Writer

log = logging.getLogger(__name__)
_IDS = "input_ids"
#: Tokens of prompts that are read in one step, so that those who wait for their next token do not wait long.
_READ_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """The threads of one model: a batcher, or a writer for one that generates.

    Attributes:
        together: the continuous batching of its backend, which the writer uses; None: texts take turns.
    """

    batcher: Batcher | None = None
    writer: Writer | None = None
    together: Any = None

    @property
    def depth(self) -> int:
        """The number of inputs and texts that wait."""
        return sum(worker.depth for worker in (self.batcher, self.writer) if worker is not None)

    @property
    def writing(self) -> str:
        """The way in which texts are written at once: in turns, or together; empty: none are."""
        if self.writer is None:
            return ""
        return f"together, by {self.together.tool}" if self.writer.is_together else "in turns"

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        for worker in (self.batcher, self.writer):
            if worker is not None:
                worker.close()


def begun(
    name: str,
    model: AcceleratedModel,
    run: Callable[[list[Any]], Sequence[Any]],
    settings: Settings,
    metrics: ModelMetrics,
) -> Workers:
    """Return new threads that run a model.

    Args:
        run: runs a batch.
    """
    if not model.can_generate():
        limits = Limits(
            items=min(settings.max_batch_items, proved_batch(model)),
            tokens=settings.max_batch_tokens,
            queue=settings.max_queue,
        )
        return Workers(batcher=Batcher(name, run, limits, metrics, max(model.manifest.streams, 1)))
    together = _together(name, model, settings)
    group: Group[Any] | None = None if together is None else Group(together, settings.max_batch_items, metrics.step)
    writer = Writer(name, running=settings.max_running, queue=settings.max_queue, step=metrics.step, group=group)
    return Workers(writer=writer, together=together)


def _together(name: str, model: AcceleratedModel, settings: Settings) -> Any:
    """Return the continuous batching of the model's backend, compared with the model; None: texts take turns."""
    if not settings.continuous_batching:
        return None
    tokens = min(settings.max_batch_tokens, _READ_AT_ONCE)
    limits = ContinuousLimits(rows=settings.max_batch_items, tokens=tokens, cache=settings.max_cache)
    try:
        return model.continuous_batching(limits)
    except UnavailableError as error:
        log.info("texts of %s take turns: %s", name, error.why)
    except VerificationError as error:
        log.warning("texts of %s take turns, as continuous batching gives others: %s", name, error)
    except OptimumError as error:
        log.warning("texts of %s take turns, as continuous batching failed: %s", name, error)
    return None


def warm(model: AcceleratedModel, generation: Mapping[str, Any]) -> None:
    """Read and answer one text, or classify one picture or sound, so that the first request does not wait for what is
    loaded at the first of these.

    Raises:
        OptionError: settings of generation, the model's own or the server's, cannot be honoured, so that no request
            could be answered.
    """
    if all(spec.name != _IDS for spec in model.manifest.inputs):
        _warm_medium(model)
        return
    try:
        items = model.tokenize(["a"])
        if model.can_generate():
            first: Any = [{"role": "user", "content": "a"}] if model.takes_pictures_in_chats else "a"
            next(iter(model.generate([first], stream=True, **generation, max_new_tokens=1)))
        else:
            model.map(items, progress=False)
    except OptionError:
        raise
    except OptimumError as error:
        log.info("no text was tried: %s", error)


def _warm_medium(model: AcceleratedModel) -> None:
    classifies = any(spec.name == LOGITS and len(spec.shape) == 2 for spec in model.manifest.outputs)
    names = {spec.name for spec in model.manifest.inputs} if classifies else set()
    item = np.zeros((64, 64, 3), np.uint8) if PIXELS in names else np.zeros(16000, np.float32)
    if PIXELS in names or names & SOUNDS:
        try:
            model.map([item], progress=False)
        except OptimumError as error:
            log.info("no picture or sound was tried: %s", error)


def freed(model: AcceleratedModel | None, workers: Workers) -> None:
    """Answer what waits, and free a model."""
    workers.close()
    if model is not None:
        model.close()


def proved_batch(model: AcceleratedModel) -> int:
    """Return the greatest batch with which the model was compared with the original."""
    axis = model.manifest.axes.get("batch")
    return axis.proved[1] if axis is not None and axis.proved is not None else sys.maxsize
