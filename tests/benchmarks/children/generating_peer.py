"""Other libraries' decoders, each in its own environment: `-m tests.benchmarks.children.generating_peer NAME CORES
MODEL GGUF FOLDER`.

MODEL is a directory of transformers, GGUF a file of the same weights; what a library makes of them is kept in FOLDER.
Nothing of this project is installed there. `tests.benchmarks.children.steps` answers.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.children.steps import Case, Opened, keep_to, prompt_of, serve

#: Tokens that llama.cpp may hold for a row: the longest case.
_CONTEXT = 2304
_BATCH = 2048


def main() -> None:
    """Open what the library has, and answer."""
    name, cores, model, gguf, folder = sys.argv[1:]
    keep_to(int(cores))
    Path(folder).mkdir(parents=True, exist_ok=True)
    serve(_LIBRARIES[name](int(cores), Path(model), Path(gguf), Path(folder)))


Makers = Mapping[str, Callable[[], Opened]]


# llama.cpp


def _llama_cpp(cores: int, model: Path, gguf: Path, folder: Path) -> Makers:
    """The weights as the file has them, and rounded again to the format whose products llama.cpp has fastest."""
    return {
        "llama.cpp Q4_1": lambda: _LlamaCpp(gguf, cores).opened(),
        "llama.cpp Q4_0": lambda: _LlamaCpp(_as_q4_0(gguf, folder), cores).opened(),
    }


def _as_q4_0(gguf: Path, folder: Path) -> Path:
    ffi, api = _interface()
    made = folder / "Q4_0.gguf"
    if not made.is_file():
        options = ffi.new("llama_model_quantize_params *", api.llama_model_quantize_default_params())
        options.ftype, options.allow_requantize = api.LLAMA_FTYPE_MOSTLY_Q4_0, True
        if api.llama_model_quantize(str(gguf).encode(), str(made).encode(), options):
            raise RuntimeError("llama.cpp cannot quantize the file")
    return made


def _interface() -> tuple[Any, Any]:
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    ffi, api = get_ffi(), get_lib()
    api.llama_backend_init()
    return ffi, api


class _LlamaCpp:
    """A model in llama.cpp, by its C interface: the class of its Python package holds one text alone."""

    def __init__(self, file: Path, cores: int) -> None:
        self._ffi, self._api = _interface()
        self._cores = cores
        options = self._api.llama_model_default_params()
        self._model = self._api.llama_model_load_from_file(str(file).encode(), options)
        self._words = self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(self._model))
        self._contexts: dict[int, Any] = {}

    def opened(self) -> Opened:
        """Return its loop and scores."""
        return Opened(steps=self.steps, scores=self.scores)

    def steps(self, case: Case) -> Iterator[object]:
        """Yield as each token comes, one for every row."""
        context, ids, start = self._context(case[0]), prompt_of(case), 0
        for _ in range(case[2]):
            scores = self._decode(context, ids, start)
            start += ids.shape[1]
            ids = scores.argmax(-1)[:, None]
            yield ids

    def scores(self, ids: list[int]) -> Any:
        """Return the scores of every position of a text."""
        import numpy as np

        context = self._context(1)
        return np.concatenate([self._decode(context, np.array([[one]]), place) for place, one in enumerate(ids)])

    def _context(self, rows: int) -> Any:
        """Return an empty context for so many rows."""
        api = self._api
        if rows not in self._contexts:
            options = api.llama_context_default_params()
            options.n_ctx, options.n_batch, options.n_seq_max = rows * _CONTEXT, rows * _BATCH, rows
            options.n_threads = options.n_threads_batch = self._cores
            self._contexts[rows] = api.llama_init_from_model(self._model, options)
        api.llama_memory_clear(api.llama_get_memory(self._contexts[rows]), True)
        return self._contexts[rows]

    def _decode(self, context: Any, ids: Any, start: int) -> Any:
        """Return the scores of the last position of every row: [rows, vocabulary]."""
        import numpy as np

        rows, length = ids.shape
        batch = self._api.llama_batch_init(rows * length, 0, 1)
        batch.n_tokens = rows * length
        for index, (row, place) in enumerate(np.ndindex(rows, length)):
            batch.token[index], batch.pos[index] = int(ids[row, place]), start + place
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
            batch.logits[index] = place == length - 1
        problem = self._api.llama_decode(context, batch)
        self._api.llama_batch_free(batch)
        if problem:
            raise RuntimeError(f"llama.cpp cannot decode: {problem}")
        last = range(length - 1, rows * length, length)
        return np.stack([self._scores_at(context, index) for index in last])

    def _scores_at(self, context: Any, index: int) -> Any:
        import numpy as np

        scores = self._api.llama_get_logits_ith(context, index)
        return np.frombuffer(self._ffi.buffer(scores, 4 * self._words), np.float32)


# optimum-intel


def _optimum_intel(cores: int, model: Path, gguf: Path, folder: Path) -> Makers:
    """Its stateful export in fp32, with weights in 8 and 4 bits, each run by its own `forward`."""
    return {f"optimum-intel {name}": partial(_intel, model, folder, name) for name in ("fp32", "int8", "int4")}


def _intel(model: Path, folder: Path, precision: str) -> Opened:
    import torch

    decoder = _exported(model, folder, precision)

    def steps(case: Case) -> Iterator[object]:
        ids, past = torch.from_numpy(prompt_of(case)), None
        mask = torch.ones_like(ids)
        for _ in range(case[2]):
            answer = decoder(input_ids=ids, attention_mask=mask, past_key_values=past)
            ids, past = answer.logits[:, -1:].argmax(-1), answer.past_key_values
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            yield ids

    def scores(ids: list[int]) -> Any:
        one = torch.tensor([ids])
        return decoder(input_ids=one, attention_mask=torch.ones_like(one)).logits[0].numpy()

    return Opened(steps=steps, scores=scores)


def _exported(model: Path, folder: Path, precision: str) -> Any:
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    asked: dict[str, Any] = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}} if precision == "fp32" else {}
    made = folder / precision
    if not made.is_dir():
        configs = {
            "int8": lambda: OVWeightQuantizationConfig(bits=8),
            "int4": lambda: OVWeightQuantizationConfig(bits=4, sym=True, group_size=64),
        }
        config = {"quantization_config": configs[precision]()} if precision in configs else {"load_in_8bit": False}
        partly = folder / f"{precision}.part"
        shutil.rmtree(partly, ignore_errors=True)
        OVModelForCausalLM.from_pretrained(model, export=True, compile=False, **config).save_pretrained(partly)
        partly.rename(made)
    return OVModelForCausalLM.from_pretrained(made, **asked)


_LIBRARIES: Mapping[str, Callable[[int, Path, Path, Path], Makers]] = {
    "llama.cpp": _llama_cpp,
    "optimum-intel": _optimum_intel,
}

if __name__ == "__main__":
    main()
