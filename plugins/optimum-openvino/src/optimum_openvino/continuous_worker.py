"""The process in which openvino-genai batches: `python -m optimum_openvino.continuous_worker`.

The step of its pipeline holds Python's lock as long as it computes, in which no other thread would run; hence a process
of its own. It reads one JSON document a line, and answers each with a line:

    {"file": …, "properties": …, "rows": …, "tokens": …, "blocks": …}    first of all: open the model
    {"add": ids, "sampling": …}                                         begin a generation: its number
    {"step": true}                                                      {number: [new tokens, whether it has ended]}
    {"cancel": number}                                                  end a generation

An answer is {"answer": …} or {"error": …}. At the end of its input it ends: so it does not outlive its parent.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import openvino
import openvino_genai

from optimum_openvino.paged import write_paged

_DRAWING = ("temperature", "top_k", "top_p", "repetition_penalty")


class Worker:
    """One pipeline and its generations."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self._pipeline = _pipeline(asked)
        self._handles: dict[int, Any] = {}
        self._next = 0

    def answer(self, asked: Mapping[str, Any]) -> Any:
        """Carry out one document."""
        if "add" in asked:
            return self._add(asked["add"], asked["sampling"])
        if "cancel" in asked:
            return self._cancel(asked["cancel"])
        return dict(self._step())

    def _add(self, ids: list[int], sampling: Mapping[str, Any]) -> int:
        number, self._next = self._next, self._next + 1
        prompt = openvino.Tensor(np.array([ids], np.int64))
        self._handles[number] = self._pipeline.add_request(number, prompt, _configuration(sampling))
        return number

    def _step(self) -> Iterator[tuple[int, tuple[list[int], bool]]]:
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        for number, handle in list(self._handles.items()):
            tokens = [token for output in _read(handle) for token in output.generated_ids]
            ended = handle.get_status() != openvino_genai.GenerationStatus.RUNNING
            if ended:
                del self._handles[number]
            if tokens or ended:
                yield number, (tokens, ended)

    def _cancel(self, number: int) -> None:
        handle = self._handles.pop(number, None)
        if handle is not None:
            handle.stop()


def _pipeline(asked: Mapping[str, Any]) -> Any:
    schedule = openvino_genai.SchedulerConfig()
    schedule.num_kv_blocks = asked["blocks"]
    schedule.max_num_seqs = asked["rows"]
    schedule.max_num_batched_tokens = asked["tokens"]
    schedule.dynamic_split_fuse = True
    schedule.enable_prefix_caching = True
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_paged(Path(asked["file"]), Path(folder))
        tokenizer = openvino_genai.Tokenizer(folder)  # an empty one: ids come in and go out
        return openvino_genai.ContinuousBatchingPipeline(folder, tokenizer, schedule, "CPU", **asked["properties"])


def _configuration(sampling: Mapping[str, Any]) -> Any:
    made = openvino_genai.GenerationConfig()
    made.max_new_tokens = sampling["max_new_tokens"]
    ends = sampling["eos"] or [0]  # none at all is refused
    made.stop_token_ids = set(ends)
    made.set_eos_token_id(ends[0])
    made.ignore_eos = not sampling["eos"]
    made.do_sample = sampling["do_sample"]
    made.rng_seed = secrets.randbits(31)
    for name in _DRAWING:
        if sampling[name] is not None:
            setattr(made, name, sampling[name])
    return made


def _read(handle: Any) -> Iterator[Any]:
    while handle.can_read():
        yield from handle.read().values()


def _answers(documents: TextIO) -> Iterator[dict[str, Any]]:
    """Yield the answer to every line."""
    worker: Worker | None = None
    for line in documents:
        asked = json.loads(line)
        try:
            if worker is None:
                worker = Worker(asked)
                yield {"answer": openvino_genai.__version__}
            else:
                yield {"answer": worker.answer(asked)}
        except Exception as error:  # noqa: BLE001 - the parent says what it means
            yield {"error": str(error) or type(error).__name__}


def main() -> None:
    """Answer on what was standard output, which is the errors' from now on: runtimes print there."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    for answer in _answers(sys.stdin):
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
