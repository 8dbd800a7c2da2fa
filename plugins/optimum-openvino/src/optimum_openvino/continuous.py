"""Continuous batching by openvino-genai: paged attention, and a cache of the prefixes that texts have in common.

Its pipeline reads our own IR and takes ids. It runs in a process of its own (`optimum_openvino.continuous_worker`), and
compiles the model once more, with the precision and threads of the session: by itself, it would take 8 bits for keys
and values.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from optimum_core.backend import closed, present, read_options, versions
from optimum_core.errors import InputError, SessionError, UnavailableError
from optimum_core.types import ContinuousLimits, LayerState, Progress, Sampling, SessionRequest
from optimum_openvino.devices import BACKEND, parse_device
from optimum_openvino.options import OpenVinoOptions
from optimum_openvino.runtime import properties
from optimum_openvino.session import sentence

_DISTRIBUTION, _PACKAGE, _WORKER = "openvino-genai", "openvino_genai", "optimum_openvino.continuous_worker"
#: Positions in one block of the cache, on a CPU.
_BLOCK = 32
#: Bytes of one number in the cache, where they are not 2.
_SIZES = {"f32": 4, "u8": 1, "i8": 1}
_INPUTS = {"input_ids", "attention_mask", "position_ids", "logits_to_keep"}
_WITHOUT = "generate without continuous batching"


class OvContinuousBatch:
    """Generations that share the calls of one pipeline.

    Args:
        process: the worker, which has opened the model.
        positions: that its cache holds.
    """

    def __init__(self, process: _Process, positions: int, who: str) -> None:
        self.tool = f"{_DISTRIBUTION} {versions([_DISTRIBUTION]).get(_DISTRIBUTION, '')}"
        self.positions = positions
        self._who = f"{who}, {_DISTRIBUTION}"
        self._process: _Process | None = process

    @classmethod
    def of(cls, request: SessionRequest, limits: ContinuousLimits) -> OvContinuousBatch:
        """Compile the artifact of a session for its pipeline.

        Raises:
            UnavailableError: openvino-genai is not installed, does not fit openvino, or cannot run this decoder.
        """
        who = f"backend '{BACKEND}', {request.artifact.main_file}"
        _check(request, who)
        blocks = max(limits.cache // (_BLOCK * _bytes(request)), 1)
        process = _Process()
        try:
            process.ask(
                file=str(request.artifact.main_file.resolve()),
                properties=_properties(request),
                rows=limits.rows,
                tokens=limits.tokens,
                blocks=blocks,
            )
        except _WorkerError as error:
            process.close()
            raise UnavailableError(who, f"{_DISTRIBUTION} cannot run it: {error}", _WITHOUT) from error
        return cls(process, blocks * _BLOCK, who)

    def add(self, ids: Sequence[int], sampling: Sampling) -> int:
        """Begin a generation.

        Raises:
            InputError: prompt and new tokens are beyond the cache, or the pipeline refuses them.
            SessionError: the worker has ended.
        """
        needed = len(ids) + sampling.max_new_tokens
        if needed > self.positions:
            why = f"prompt and new tokens come to {needed} positions, and the cache holds {self.positions}"
            raise InputError(self._who, why, "ask for fewer new tokens, or give the cache more memory")
        try:
            return int(self._opened().ask(add=list(ids), sampling=asdict(sampling)))
        except _EndedError as error:
            raise self._failed(error) from error
        except _WorkerError as error:
            raise InputError(self._who, f"it refuses the text: {error}", "change its settings") from error

    def step(self) -> Mapping[int, Progress]:
        """Run the model once, and return what is new.

        Raises:
            SessionError: the runtime failed, or the worker has ended.
        """
        try:
            found = self._opened().ask(step=True)
        except _WorkerError as error:
            raise self._failed(error) from error
        return {int(number): Progress(tokens=tuple(tokens), ended=ended) for number, (tokens, ended) in found.items()}

    def cancel(self, number: int) -> None:
        """End a generation; the next step frees its memory."""
        if self._process is None:
            return
        try:
            self._process.ask(cancel=number)
        except _WorkerError:
            return  # the next step says that the worker has ended

    def close(self) -> None:
        """End the worker, and with it all generations."""
        if self._process is not None:
            self._process.close()
        self._process = None

    def _opened(self) -> _Process:
        if self._process is None:
            raise closed(self._who)
        return self._process

    def _failed(self, error: _WorkerError) -> SessionError:
        self.close()
        return SessionError(self._who, f"the step failed: {error}", "begin a new batch")


class _WorkerError(Exception):
    """An error that the worker answered in place of a result."""


class _EndedError(_WorkerError):
    """The worker has ended."""


class _Process:
    """The worker, and the lines to and from it."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-m", _WORKER], stdin=pipe, stdout=pipe, encoding="utf-8")

    def ask(self, **document: Any) -> Any:
        """Return the answer to a document.

        Raises:
            _WorkerError: the worker refuses it, or has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(document, default=str) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:  # it ended before it had read this
            line = ""
        except (OSError, ValueError) as error:
            raise _EndedError(f"its process cannot be reached: {error}") from error
        if not line:
            raise _EndedError(f"its process has ended with status {self._process.wait()}")
        found = json.loads(line)
        if "error" in found:
            raise _WorkerError(sentence(found["error"]))
        return found["answer"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # what was not sent is lost with it
                continue
        self._process.wait()


def _check(request: SessionRequest, who: str) -> None:
    state = request.artifact.state
    assert state is not None
    if not present(_PACKAGE):
        raise UnavailableError(who, f"{_DISTRIBUTION} is not installed", "pip install 'optimum-openvino[genai]'")
    if request.device != "cpu":
        raise UnavailableError(who, f"it was tried on the CPU alone, and not on {request.device!r}", _WITHOUT)
    names = {spec.name for spec in request.artifact.inputs}
    if names != _INPUTS:
        odd = ", ".join(sorted(names ^ _INPUTS))
        raise UnavailableError(who, f"{_DISTRIBUTION} runs decoders of ids with positions; here: {odd}", _WITHOUT)
    if any(layer.kind != "key-value" or layer.has_fixed_states or layer.window is not None for layer in state.layers):
        raise UnavailableError(who, "its layers keep a recurrent state, or see a window of positions", _WITHOUT)


def _properties(request: SessionRequest) -> dict[str, Any]:
    options = read_options(BACKEND, OpenVinoOptions, request.options)
    chosen = properties(request, options, parse_device(request.device))
    return {name: value for name, value in chosen.items() if name != "NUM_STREAMS"}


def _bytes(request: SessionRequest) -> int:
    """Return the bytes of keys and values of one position, without those of scales."""
    assert request.artifact.state is not None
    size = _SIZES.get(str(_properties(request).get("KV_CACHE_PRECISION")), 2)
    return sum(_numbers(layer) for layer in request.artifact.state.layers) * size


def _numbers(layer: LayerState) -> int:
    return layer.heads * (layer.head_size + (layer.value_size or layer.head_size))
