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
from itertools import product
from pathlib import Path
from typing import Any

from tests.benchmarks.children.steps import Case, Opened, keep_to, prompt_of, serve

#: Tokens that llama.cpp may hold for a row: the longest case.
_CONTEXT = 2304
_BATCH = 2048
#: llama.cpp's number of the format.
_Q4_0 = 2


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
        "llama.cpp Q4_1": lambda: Opened(steps=_LlamaCpp(gguf, cores).steps),
        "llama.cpp Q4_0": lambda: Opened(steps=_LlamaCpp(_as_q4_0(gguf, folder), cores).steps),
    }


def _as_q4_0(gguf: Path, folder: Path) -> Path:
    import cyllama.llama.llama_cpp as api

    made = folder / "Q4_0.gguf"
    if not made.is_file():
        options = api.LlamaModelQuantizeParams()
        options.ftype, options.allow_requantize = _Q4_0, True
        api.model_quantize(str(gguf), str(made), options)
    return made


class _LlamaCpp:
    """A model in llama.cpp. Tokens are stated: the scores of a step are computed, and not read."""

    def __init__(self, file: Path, cores: int) -> None:
        import cyllama.llama.llama_cpp as api

        self._api, self._cores = api, cores
        self._model = api.LlamaModel(str(file), api.LlamaModelParams())
        self._contexts: dict[int, Any] = {}

    def steps(self, case: Case) -> Iterator[object]:
        """Yield as each token comes, one for every row."""
        rows, length, new = case
        context, ids = self._context(rows), prompt_of(case)
        batch = self._api.LlamaBatch(n_tokens=rows * length, embd=0, n_seq_max=1)
        for row, place in product(range(rows), range(length)):
            batch.add(int(ids[row, place]), place, [row], place == length - 1)
        for place in range(length, length + new):
            context.decode(batch)
            yield place
            batch.reset()
            for row in range(rows):
                batch.add(int(ids[row, place % length]), place, [row], True)

    def _context(self, rows: int) -> Any:
        """Return an empty context for so many rows."""
        if rows not in self._contexts:
            options = self._api.LlamaContextParams()
            options.n_ctx, options.n_batch, options.n_seq_max = rows * _CONTEXT, rows * _BATCH, rows
            options.n_threads = options.n_threads_batch = self._cores
            self._contexts[rows] = self._api.LlamaContext(self._model, options)
        self._contexts[rows].kv_cache_clear()
        return self._contexts[rows]


# optimum-intel


def _optimum_intel(cores: int, model: Path, gguf: Path, folder: Path) -> Makers:
    """Its stateful export in fp32, with weights in 8 and 4 bits, each run by its own `forward`. Unasked, it leaves the
    precision of arithmetic and cache to OpenVINO, which takes bf16 where that is fast, and a cache in 16 bits or 8."""
    settings: Mapping[str, tuple[str, Mapping[str, str]]] = {
        "fp32": ("fp32", {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}),
        "fp32, its own cache": ("fp32", {"INFERENCE_PRECISION_HINT": "f32"}),
        "int8": ("int8", {}),
        "int4": ("int4", {}),
    }
    return {f"optimum-intel {name}": partial(_intel, model, folder, *asked) for name, asked in settings.items()}


def _intel(model: Path, folder: Path, weights: str, properties: Mapping[str, str]) -> Opened:
    import torch

    decoder = _exported(model, folder, weights, properties)

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


def _exported(model: Path, folder: Path, weights: str, properties: Mapping[str, str]) -> Any:
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    made = folder / weights
    if not made.is_dir():
        configs = {
            "int8": lambda: OVWeightQuantizationConfig(bits=8),
            "int4": lambda: OVWeightQuantizationConfig(bits=4, sym=True, group_size=64),
        }
        config = {"quantization_config": configs[weights]()} if weights in configs else {"load_in_8bit": False}
        partly = folder / f"{weights}.part"
        shutil.rmtree(partly, ignore_errors=True)
        OVModelForCausalLM.from_pretrained(model, export=True, compile=False, **config).save_pretrained(partly)
        partly.rename(made)
    return OVModelForCausalLM.from_pretrained(made, ov_config=dict(properties))


_LIBRARIES: Mapping[str, Callable[[int, Path, Path, Path], Makers]] = {
    "llama.cpp": _llama_cpp,
    "optimum-intel": _optimum_intel,
}

if __name__ == "__main__":
    main()
