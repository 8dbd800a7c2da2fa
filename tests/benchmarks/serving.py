"""`optimum-core serve` beside other servers of the same sentence encoder, under 1 to 256 clients, in one run."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tests.benchmarks.loading import Load, Server, serving
from tests.benchmarks.page import Page
from tests.benchmarks.peers import python_of, versions_of
from tests.benchmarks.subjects import minilm_directory
from tests.movies import sentences

from optimum_core import AcceleratedModel, accelerate
from optimum_core.errors import OptimumError

CLIENTS = (1, 16, 64, 256)
SECONDS, OVERLOAD_SECONDS = 5, 10
#: The clients of the overload, of whom a server with the default settings lets half wait.
_CROWD = 2048
_ROUNDS, _TEXTS, _FEW, _BATCH = 3, 4096, 32, 32
_TIMES, _BEYOND_MS, _GROWTH = 1.3, 0.6, 1.1
_PROGRAM = Path(__file__).parent / "children" / "server.py"
_BUSY = 64
#: What pip is asked for, by the way's name; those behind one environment share it.
_SENTENCES = ("sentence-transformers", "litserve", "uvicorn[standard]")
PEERS: Mapping[str, tuple[str, Sequence[str]]] = {
    "fastapi": ("servers", _SENTENCES),
    "litserve": ("servers", _SENTENCES),
    "infinity": ("infinity", ("infinity-emb[server,torch]",)),
}
_TITLES = {
    "fastapi": "sentence-transformers behind FastAPI",
    "litserve": "sentence-transformers behind LitServe",
    "infinity": "infinity-emb",
}


@dataclass(kw_only=True, slots=True)
class _Way:
    """A server that is measured.

    Attributes:
        precision: the way is compared with those of the same.
        vectors: of a few texts.
        loads: by the number of clients.
        memory: in bytes, at the start, and after every round.
    """

    name: str
    precision: str
    is_ours: bool
    server: Server
    vectors: np.ndarray[Any, Any]
    loads: dict[int, list[Load]] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)

    def cpu(self, clients: int) -> float:
        """Milliseconds of processor time for each answer: the median over the rounds."""
        return median(load.cpu / max(load.requests, 1) * 1e3 for load in self.loads[clients])

    def beside(self, clients: int) -> float:
        """Milliseconds of processor time for each answer that are not the model's: the median over the rounds."""
        return median(load.beside / max(load.requests, 1) * 1e3 for load in self.loads[clients])


def run(
    cache: Path,
    *,
    seconds: int = SECONDS,
    overload: int = OVERLOAD_SECONDS,
    beside: Sequence[str] = tuple(PEERS),
) -> Page:
    """All-MiniLM-L6-v2 on sentences of film reviews, one in each request.

    Args:
        seconds: of each load.
        overload: seconds of the load that is more than the server can bear; 0: none.
    """
    texts = sentences()
    texts = texts[:: max(1, len(texts) // _TEXTS)][:_TEXTS]
    bodies = cache / "bodies.jsonl"
    bodies.write_text("".join(json.dumps({"input": text, "model": "encoder"}) + "\n" for text in texts), "utf-8")
    notes = [_about(texts)]
    with minilm_directory() as directory, ExitStack() as stack:
        models = {precision: stack.enter_context(_model(directory, precision, cache)) for precision in ("fp32", "auto")}
        ways = [_ours(model, precision, cache, stack) for precision, model in models.items()]
        for name in beside:
            try:
                way, told = _peer(name, directory, cache, stack)
                ways.append(way)
                notes.append(told)
            except OptimumError as error:
                notes.append(f"{_TITLES[name]}: {error.why}")
        _check(ways, texts[:_FEW])
        bare = _in_turns(ways, models["fp32"], bodies, texts, seconds)
        crowd = tuple(_overloaded(ways[0], bodies, overload)) if overload else ()
    rows = tuple(_row(way, clients) for clients in CLIENTS for way in ways)
    head = ("clients", "server", "requests/s", "CPU a request", "p50", "p99", "errors", "429")
    targets = (*_targets(ways, bare), *crowd)
    return Page(
        name="serve", title="Serving embeddings: MiniLM beside other servers", head=head, rows=rows,
        notes=(*notes, *_memory(ways), *targets),
    )  # fmt: skip


def _about(texts: Sequence[str]) -> str:
    words = [len(text.split()) for text in texts]
    return (
        f"{len(texts)} sentences of film reviews (Hutto and Gilbert 2014) of {min(words)} to {max(words)} words, "
        f"{sum(words) / len(words):.0f} on average, in turns, one in a request to /v1/embeddings, each client asking "
        f"again once it has its answer (wrk, one thread, on the same cores); all servers with their defaults. Medians "
        f"of {_ROUNDS} rounds, the order reversed; the other servers' processes are suspended meanwhile. CPU: of the "
        "server's processes. 429 is an answer."
    )


def _model(directory: Path, precision: str, cache: Path) -> AcceleratedModel:
    return accelerate(directory, precision=precision, shapes=[(1, 32), (_BATCH, 32)], cache_dir=cache)


def _ours(model: AcceleratedModel, precision: str, cache: Path, stack: ExitStack) -> _Way:
    place = cache / f"served-{precision}"
    model.save_pretrained(place)

    def command(port: int) -> Sequence[str]:
        return [sys.executable, "-m", "optimum_core", "serve", f"encoder={place}", "--port", str(port)]

    name = f"optimum-serve, {precision}"
    server = stack.enter_context(serving(name, command, cache))
    return _Way(name=name, precision=precision, is_ours=True, server=server, vectors=np.empty(0))


def _peer(name: str, directory: Path, cache: Path, stack: ExitStack) -> tuple[_Way, str]:
    """Return another server, and what it runs on.

    Raises:
        OptimumError: it cannot be installed, or does not start.
    """
    home, packages = PEERS[name]
    python = python_of(home, packages)
    place = cache / "encoder"  # some name the model by its directory
    if not place.exists():
        shutil.copytree(directory, place)

    def command(port: int) -> Sequence[str]:
        if name == "infinity":
            return [
                str(python.with_name("infinity_emb")), "v2", "--model-id", str(place), "--served-model-name", "encoder",
                "--engine", "torch", "--device", "cpu", "--url-prefix", "/v1", "--host", "127.0.0.1",
                "--port", str(port),
            ]  # fmt: skip
        return [str(python), str(_PROGRAM), name, str(place), str(port)]

    server = stack.enter_context(serving(_TITLES[name], command, cache))
    way = _Way(name=_TITLES[name], precision="fp32", is_ours=False, server=server, vectors=np.empty(0))
    return way, f"{_TITLES[name]}: {versions_of(python)}"


def _check(ways: Sequence[_Way], texts: Sequence[str]) -> None:
    """Take the vectors of a few texts, which all servers must give alike."""
    for way in ways:
        with way.server.alone():
            asked = [way.server.ask({"input": text, "model": "encoder"}) for text in texts]
        vectors = np.asarray([answer["data"][0]["embedding"] for answer in asked])
        way.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _in_turns(
    ways: Sequence[_Way], model: AcceleratedModel, bodies: Path, texts: Sequence[str], seconds: int
) -> list[float]:
    """Load all servers, and return the milliseconds of processor time of a text in a bare call, once a round."""
    bare = []
    for way in ways:
        with way.server.alone():  # what is loaded late, and grows once, does so before the first measurement
            way.server.load(bodies, clients=_BUSY, seconds=1)
        way.memory.append(way.server.memory())
    for turn in range(_ROUNDS):
        bare.append(_bare(model, texts, seconds))
        for clients in CLIENTS:
            for way in ways[:: 1 if turn % 2 == 0 else -1]:
                with way.server.alone():
                    load = way.server.load(bodies, clients=clients, seconds=seconds)
                way.loads.setdefault(clients, []).append(load)
        for way in ways:
            way.memory.append(way.server.memory())
    return bare


def _bare(model: AcceleratedModel, texts: Sequence[str], seconds: int) -> float:
    """Milliseconds of processor time of a text in `encode` of a batch, tokenizing included."""
    model.encode(texts[:_BATCH])
    end, number = time.perf_counter() + seconds, 0
    start = time.process_time()
    while time.perf_counter() < end:
        first = number % (len(texts) - _BATCH)
        model.encode(texts[first : first + _BATCH], batch_size=_BATCH)
        number += _BATCH
    return (time.process_time() - start) / number * 1e3


def _overloaded(way: _Way, bodies: Path, seconds: int) -> Iterator[str]:
    """Load a server with more clients than it lets wait, and say how it bore that."""
    with way.server.alone():
        before = way.server.memory()
        load = way.server.load(bodies, clients=_CROWD, seconds=seconds)
        after = way.server.memory()
    answered = load.requests - load.refused - load.errors
    yield (
        f"{way.name} under {_CROWD} clients for {load.seconds:.0f} s: {answered} answers, {load.refused} refused with "
        f"429, {load.errors} errors, p99 {load.p99:.0f} ms; memory {_mib(before)} before, {_mib(after)} after."
    )
    met = answered > 0 and load.errors == 0 and after <= _GROWTH * before
    yield f"Target: there no error, and memory within {_GROWTH} times: {_told(met)}."


def _row(way: _Way, clients: int) -> tuple[str, ...]:
    loads = way.loads[clients]
    return (
        str(clients),
        way.name,
        f"{median(load.requests / load.seconds for load in loads):.0f}",
        f"{way.cpu(clients):.2f} ms",
        f"{median(load.p50 for load in loads):.1f} ms",
        f"{median(load.p99 for load in loads):.1f} ms",
        str(sum(load.errors for load in loads)),
        str(sum(load.refused for load in loads)),
    )


def _memory(ways: Sequence[_Way]) -> Iterator[str]:
    found = (f"{way.name} {', '.join(map(_mib, way.memory))}" for way in ways)
    yield f"Memory when warm, and after each round: {'; '.join(found)}."
    first = next((way for way in ways if not way.is_ours), ways[0])
    cosines = (f"{way.name} {(way.vectors * first.vectors).sum(axis=1).min():.5f}" for way in ways)
    yield f"Least cosine of {_FEW} texts with {first.name}: {'; '.join(cosines)}."


def _targets(ways: Sequence[_Way], bare: Sequence[float]) -> Iterator[str]:
    ours, *_ = ways
    theirs = [way for way in ways if not way.is_ours and way.precision == ours.precision]
    if theirs:
        times = {clients: min(way.cpu(clients) for way in theirs) / ours.cpu(clients) for clients in CLIENTS}
        told = ", ".join(f"{found:.2f} at {clients}" for clients, found in times.items())
        yield (
            f"Target in {ours.precision}: at least {_TIMES} times the requests a second of processor time of the best "
            f"of the others: {told}: {_told(min(times.values()) >= _TIMES)}."
        )
    beside = ours.beside(_BUSY)
    yield (
        f"Target: at {_BUSY} clients at most {_BEYOND_MS} ms of processor time beside the threads that run the model: "
        f"{beside:.2f}, {_told(beside <= _BEYOND_MS)}. A text takes {ours.cpu(_BUSY):.2f} ms in all, and "
        f"{median(bare):.2f} ms in a bare `encode` of {_BATCH} texts as they come."
    )
    errors = sum(load.errors for way in ways if way.is_ours for loads in way.loads.values() for load in loads)
    yield f"Target: no error: {errors}, {_told(errors == 0)}."
    # The first round brings batches of every length, for each of which the runtime reserves memory once.
    grown = max(way.memory[-1] / way.memory[1] for way in ways if way.is_ours)
    yield f"Target: memory within {_GROWTH} times after the first round: {grown:.2f}, {_told(grown <= _GROWTH)}."


def _told(met: bool) -> str:
    return "met" if met else "MISSED"


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
