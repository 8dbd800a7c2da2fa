"""`python -m tests.benchmarks [--only NAME ...] [--markdown FILE]`: measure, print, and write the tables down."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console
from rich.text import Text
from tests.benchmarks import (
    accelerating,
    conversions,
    embeddings,
    engines,
    generating,
    grid,
    importing,
    latency,
    mapping,
    memory,
    overhead,
    peak,
    qat,
    quantization,
    rounding,
    serving,
    startup,
)
from tests.benchmarks.generators import PEERS
from tests.benchmarks.page import Page, markdown, show, write_region
from transformers.utils import logging

from optimum_core.hardware import describe, detect
from optimum_core.plugins import manager

_MEASUREMENTS: dict[str, Callable[[Path], Page]] = {
    "import": importing.run,
    "startup": startup.run,
    "accelerate": accelerating.run,
    "overhead": overhead.run,
    "latency": latency.run,
    "peak": peak.run,
    "memory": memory.run,
    "map": mapping.run,
    "grid": grid.run,
    "qat": qat.run,
    "trt": engines.run,
    "coreml": conversions.run,
    "quantization": quantization.run,
    "int4": rounding.run,
    "generation": generating.run,
    "embeddings": embeddings.run,
    "serve": serving.run,
}
_ON_REQUEST = frozenset(
    {"memory", "map", "grid", "qat", "trt", "coreml", "quantization", "int4", "generation", "embeddings", "serve"}
)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure, side by side.")
    parser.add_argument("--only", action="append", choices=_MEASUREMENTS, help="this one; may be given again")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables into this file")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=grid.MODELS,
        default=[],
        metavar="NAME",
        help=f"of grid: {', '.join(grid.MODELS)}",
    )
    parser.add_argument("--peers", action="store_true", help="of quantization and generation: beside other libraries")
    parser.add_argument(
        "--movie-model",
        type=Path,
        metavar="DIR",
        help="of quantization: the trained classifier, instead of training it",
    )
    parser.add_argument("--ways", nargs="+", default=[], choices=generating.WAYS, help="of generation: these alone")
    parser.add_argument("--brief", action="store_true", help="of generation: four tokens in one case, to try it")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="of generation: keep models here, and use them")
    parser.add_argument("--sentences", type=int, default=embeddings.SENTENCES, help="of embeddings: their number")
    parser.add_argument(
        "--beside",
        nargs="*",
        default=list(embeddings.PEERS),
        choices=embeddings.PEERS,
        help="of embeddings: these alone",
    )
    parser.add_argument(
        "--servers", nargs="*", default=list(serving.PEERS), choices=serving.PEERS, help="of serve: beside these alone"
    )
    parser.add_argument("--seconds", type=int, default=serving.SECONDS, help="of serve: of each load")
    parser.add_argument(
        "--overload",
        type=int,
        default=serving.OVERLOAD_SECONDS,
        metavar="SECONDS",
        help="of serve: under more clients than it can bear",
    )
    asked = parser.parse_args()
    measurements: dict[str, Callable[[Path], Page]] = {
        **_MEASUREMENTS,
        "embeddings": partial(embeddings.run, number=asked.sentences, beside=asked.beside),
        "generation": partial(
            generating.run,
            ways=asked.ways,
            brief=asked.brief,
            artifacts=asked.artifacts,
            beside=tuple(PEERS) if asked.peers else (),
        ),
        "grid": partial(grid.run, models=asked.models),
        "serve": partial(serving.run, seconds=asked.seconds, overload=asked.overload, beside=asked.servers),
        "quantization": partial(quantization.run, with_peers=asked.peers, movie_model=asked.movie_model),
    }
    chosen = asked.only or [name for name in _MEASUREMENTS if name not in _ON_REQUEST]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else 100)
    surroundings = _surroundings()
    for line in surroundings:
        console.print(Text(line, "dim"))
    console.print()
    pages = []
    with TemporaryDirectory(prefix="optimum-benchmarks-") as folder:
        for name in chosen:
            with Console(stderr=True).status(f"measuring: {name} …"):
                page = measurements[name](Path(folder))
            show(console, page)
            pages.append(page)
    if asked.markdown is not None:
        _write(asked.markdown, pages, surroundings, "PEERS=1 " if asked.peers else "")


def _surroundings() -> list[str]:
    """Return the conditions of the figures: the machine, its load, and the versions."""
    hardware, plugins = detect(), manager()
    machine = dict(describe(hardware))
    facts = ("System", "CPU", "Memory", "GPUs")
    versions: dict[str, str] = {}
    for support in plugins.supports(hardware).values():
        versions |= support.versions
    versions |= {info.distribution: info.version for info in plugins.infos()}
    told = (f"{name} {version}" for name, version in sorted(versions.items()))
    return [
        "; ".join(machine[label] for label in facts if machine[label] != "none found"),
        f"{psutil.cpu_percent(interval=1):.0f} % of the processor in use before the first measurement",
        f"Python {platform.python_version()}, {', '.join(told)}",
    ]


def _write(file: Path, pages: list[Page], surroundings: list[str], settings: str) -> None:
    """Each table in its own region of the file, so that one may be measured anew by itself."""
    for page in pages:
        target = f"bench-{page.name}" if page.name in _ON_REQUEST else "bench"
        origin = f"`make {target} {settings}MARKDOWN={file.as_posix()}` on {'; '.join(surroundings)}."
        write_region(file, page.name, f"{markdown(page)}\n\n{origin}")


if __name__ == "__main__":
    main()
