"""Continuous batching by openvino-genai: paged attention, and a cache of the prefixes that texts have in common.

The pipeline reads our own IR and takes ids; its tokenizer stays empty. It compiles the model once more, with the
precision and threads of the session: by itself, it would take 8 bits for keys and values.

Its step holds Python's lock, and its handles are read by the thread that steps.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from optimum_core.backend import closed, present, read_options, versions
from optimum_core.errors import InputError, SessionError, UnavailableError
from optimum_core.types import ContinuousLimits, LayerState, Progress, Sampling, SessionRequest
from optimum_openvino.devices import BACKEND, parse_device
from optimum_openvino.options import OpenVinoOptions
from optimum_openvino.paged import write_paged
from optimum_openvino.runtime import RUNTIME_ERRORS, properties
from optimum_openvino.session import brief

_DISTRIBUTION, _PACKAGE = "openvino-genai", "openvino_genai"
#: Positions in one block of the cache, on a CPU.
_BLOCK = 32
_INPUTS = {"input_ids", "attention_mask", "position_ids", "logits_to_keep"}


class OvContinuousBatch:
    """Generations that share the calls of one pipeline.

    Args:
        pipeline: an `openvino_genai.ContinuousBatchingPipeline`.
        positions: that its cache holds.
    """

    def __init__(self, pipeline: Any, positions: int, who: str) -> None:
        self.tool = f"{_DISTRIBUTION} {versions([_DISTRIBUTION]).get(_DISTRIBUTION, '')}"
        self._who = f"{who}, {_DISTRIBUTION}"
        self._pipeline, self.positions = pipeline, positions
        self._handles: dict[int, Any] = {}
        self._next = 0

    @classmethod
    def of(cls, request: SessionRequest, limits: ContinuousLimits) -> OvContinuousBatch:
        """Compile the artifact of a session for its pipeline.

        Raises:
            UnavailableError: openvino-genai is not installed, does not fit openvino, or cannot run this decoder.
        """
        who = f"backend '{BACKEND}', {request.artifact.main_file}"
        _check(request, who)
        genai = _import(who)
        blocks = max(limits.cache // (_BLOCK * _bytes(request)), 1)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            write_paged(request.artifact.main_file, Path(folder))
            try:
                pipeline = genai.ContinuousBatchingPipeline(
                    folder, genai.Tokenizer(folder), _schedule(genai, limits, blocks), "CPU", **_properties(request)
                )
            except RUNTIME_ERRORS as error:
                why = f"{_DISTRIBUTION} cannot run it: {brief(error)}"
                raise UnavailableError(who, why, "generate without continuous batching") from error
        return cls(pipeline, blocks * _BLOCK, who)

    def add(self, ids: Sequence[int], sampling: Sampling) -> int:
        """Begin a generation.

        Raises:
            InputError: prompt and new tokens are beyond the cache, or the pipeline refuses them.
        """
        needed = len(ids) + sampling.max_new_tokens
        if needed > self.positions:
            why = f"prompt and new tokens come to {needed} positions, and the cache holds {self.positions}"
            raise InputError(self._who, why, "ask for fewer new tokens, or give the cache more memory")
        number, self._next = self._next, self._next + 1
        prompt = openvino.Tensor(np.array([ids], np.int64))
        try:
            self._handles[number] = self._opened().add_request(number, prompt, _configuration(sampling))
        except RUNTIME_ERRORS as error:
            raise InputError(self._who, f"it refuses the text: {brief(error)}", "change its settings") from error
        return number

    def step(self) -> Mapping[int, Progress]:
        """Run the model once, and return what is new.

        Raises:
            SessionError: the runtime failed.
        """
        pipeline = self._opened()
        try:
            if pipeline.has_non_finished_requests():
                pipeline.step()
            found = {number: _progress(handle) for number, handle in self._handles.items()}
        except RUNTIME_ERRORS as error:
            self.close()
            raise SessionError(self._who, f"the step failed: {brief(error)}", "begin a new batch") from error
        for number, progress in found.items():
            if progress.ended:
                del self._handles[number]
        return {number: progress for number, progress in found.items() if progress.tokens or progress.ended}

    def cancel(self, number: int) -> None:
        """End a generation; the next step frees its memory."""
        handle = self._handles.pop(number, None)
        if handle is not None:
            handle.stop()

    def close(self) -> None:
        """End all generations, and free the memory."""
        for number in list(self._handles):
            self.cancel(number)
        self._pipeline = None

    def _opened(self) -> Any:
        if self._pipeline is None:
            raise closed(self._who)
        return self._pipeline


def _check(request: SessionRequest, who: str) -> None:
    state = request.artifact.state
    assert state is not None
    remedy = "generate without continuous batching"
    if request.device != "cpu":
        raise UnavailableError(who, f"it was tried on the CPU alone, and not on {request.device!r}", remedy)
    names = {spec.name for spec in request.artifact.inputs}
    if names != _INPUTS:
        odd = ", ".join(sorted(names ^ _INPUTS))
        raise UnavailableError(who, f"{_DISTRIBUTION} runs decoders of ids with positions; here: {odd}", remedy)
    if any(layer.kind != "key-value" or layer.window is not None for layer in state.layers):
        raise UnavailableError(who, "its layers keep a recurrent state, or see a window of positions", remedy)


def _import(who: str) -> Any:
    """Return openvino-genai.

    Raises:
        UnavailableError: it is not installed, or belongs to another openvino.
    """
    if not present(_PACKAGE):
        raise UnavailableError(who, f"{_DISTRIBUTION} is not installed", "pip install 'optimum-openvino[genai]'")
    try:
        import openvino_genai
    except ImportError as error:
        why = f"{_DISTRIBUTION} does not fit openvino {openvino.__version__}: {brief(error)}"
        raise UnavailableError(who, why, "pip install -U openvino openvino-genai") from error
    return openvino_genai


def _properties(request: SessionRequest) -> dict[str, Any]:
    options = read_options(BACKEND, OpenVinoOptions, request.options)
    chosen = properties(request, options, parse_device(request.device))
    return {name: value for name, value in chosen.items() if name != "NUM_STREAMS"}


def _bytes(request: SessionRequest) -> int:
    """Return the bytes of keys and values of one position."""
    assert request.artifact.state is not None
    size = 4 if request.precision == "fp32" else 2
    return sum(_numbers(layer) for layer in request.artifact.state.layers) * size


def _numbers(layer: LayerState) -> int:
    return layer.heads * (layer.head_size + (layer.value_size or layer.head_size))


def _schedule(genai: Any, limits: ContinuousLimits, blocks: int) -> Any:
    made = genai.SchedulerConfig()
    made.num_kv_blocks = blocks
    made.max_num_seqs = limits.rows
    made.max_num_batched_tokens = limits.tokens
    made.dynamic_split_fuse = True
    made.enable_prefix_caching = True
    return made


def _configuration(sampling: Sampling) -> Any:
    import openvino_genai

    made = openvino_genai.GenerationConfig()
    made.max_new_tokens = sampling.max_new_tokens
    ends = sampling.eos or (0,)  # none at all is refused
    made.stop_token_ids = set(ends)
    made.set_eos_token_id(ends[0])
    made.ignore_eos = not sampling.eos
    made.do_sample = sampling.do_sample
    made.rng_seed = secrets.randbits(31)
    stated = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p", "repetition_penalty")}
    for name, value in stated.items():
        if value is not None:
            setattr(made, name, value)
    return made


def _progress(handle: Any) -> Progress:
    import openvino_genai

    tokens: list[int] = []
    while handle.can_read():
        for output in handle.read().values():
            tokens += output.generated_ids
    return Progress(tokens=tuple(tokens), ended=handle.get_status() != openvino_genai.GenerationStatus.RUNNING)
