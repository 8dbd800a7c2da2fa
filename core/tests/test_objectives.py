"""`objective` and `budget` decide which of several correct candidates is chosen, and how many are tried."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clocks import Clock
from fake_backend import installed
from optimum_core import AcceleratedModel, accelerate, measure
from optimum_core.errors import UnavailableError
from optimum_core.hardware.energy_counters import POWERCAP_ENV
from optimum_core.hookspecs import hookimpl
from optimum_core.models.backends.eager_torch import plugin as torch_plugin
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.types import (
    Array,
    Artifact,
    Event,
    ExportRequest,
    Hardware,
    Offer,
    OptimizeRequest,
    Session,
    SessionRequest,
    Support,
    TensorSpec,
    Transform,
)

EFFORT = measure.Effort(rounds=2, seconds=0.05, hopeless=math.inf, steady=math.inf)
#: Seconds of a call by device; the slower device takes several calls side by side, and is the faster one then.
SECONDS = {"one": 0.05, "many": 0.07}
#: Bytes of the files by level, and seconds of a call.
SIZES = {"large": (4096, 0.0), "small": (64, 0.02), "sparing": (64, 0.005), "hungry": (64, 0.005)}
#: Microjoules of a call by level.
MICROJOULES = {"sparing": 1_000, "hungry": 9_000}


class Acme:
    """A backend that looks its answers up, and takes its time as its device and its level want it.

    Attributes:
        clock: advances by the time of a call, which no load of the machine changes.
    """

    def __init__(self, *devices: str, levels: tuple[str, ...] = ()) -> None:
        self.clock = Clock()
        self.pair = threading.Barrier(2, action=self.clock.taking(SECONDS["many"]))
        loop = (Transform(takes="acme", gives="acme"),) if levels else ()
        self.offers = tuple(
            Offer(
                device=device,
                exports=("acme",) if device == devices[0] else (),
                loads=("acme",),
                optimizes=loop,
                levels=levels,
                parallel=device == "many",
            )
            for device in devices
        )
        self.known: dict[bytes, Mapping[str, Any]] = {}
        self.counter: Path | None = None

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        return Support(offers=self.offers)

    @hookimpl
    def export(self, request: ExportRequest) -> Artifact | None:
        return self._written(request, "plain", 1024, request.inputs, request.outputs)

    @hookimpl
    def optimize(self, request: OptimizeRequest) -> Artifact | None:
        artifact = request.artifact
        made = self._written(
            request, str(request.level), SIZES[str(request.level)][0], artifact.inputs, artifact.outputs
        )
        return made and replace(made, steps=artifact.steps)

    def _written(
        self,
        request: ExportRequest | OptimizeRequest,
        word: str,
        size: int,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> Artifact | None:
        if request.backend != "acme":
            return None
        (request.output / "model.acme").write_bytes(word.encode().ljust(size))
        return Artifact(format="acme", path=request.output, files=("model.acme",), inputs=inputs, outputs=outputs)

    @hookimpl
    def load_session(self, request: SessionRequest) -> Session | None:
        return Opened(request) if request.backend == "acme" else None

    @hookimpl
    def infer(self, session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
        if not isinstance(session, Opened):
            return None
        key = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs.values())
        if key not in self.known:
            self.known[key] = eager_outputs(session.module, inputs)
        self._take(session, key)
        if self.counter is not None:
            self.counter.write_text(str(int(self.counter.read_text()) + MICROJOULES[session.word]))
        return self.known[key]

    def _take(self, session: Opened, key: bytes) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.pair.wait(60)  # side by side, two calls take the time of one
        elif key in session.seen:  # calls that compare come once, those that measure again and again
            self.clock.seconds += session.seconds
        session.seen.add(key)


class Opened:
    backend = "acme"

    def __init__(self, request: SessionRequest) -> None:
        assert request.source is not None
        self.device = request.device
        self.module = request.source.module()
        self.inputs, self.outputs = request.artifact.inputs, request.artifact.outputs
        word = request.artifact.main_file.read_text(encoding="utf-8").strip()
        self.word = word
        self.seen: set[bytes] = set()
        self.seconds = SIZES[word][1] if word in SIZES else SECONDS[self.device]

    def close(self) -> None:
        pass


Accelerate = Callable[..., AcceleratedModel]


@pytest.fixture
def with_acme(tiny: Callable[[str], Any], tmp_path: Path) -> Iterator[Accelerate]:
    """`accelerate` of a tiny BERT where nothing but torch and Acme is installed."""

    def run(acme: Acme, **settings: Any) -> AcceleratedModel:
        with installed(torch=torch_plugin, acme=acme), measure.measuring(EFFORT, clock=acme.clock):
            usual = {"shapes": [(1, 8)], "cache_dir": tmp_path, "target": "acme", "budget": 120}
            return accelerate(tiny("bert"), **{**usual, **settings})

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


def test_latency_is_one_call_by_itself(with_acme: Accelerate) -> None:
    chosen = with_acme(Acme("one", "many"), objective="latency").manifest
    assert (chosen.device, chosen.streams) == ("one", 1)


def test_throughput_counts_calls_side_by_side(with_acme: Accelerate) -> None:
    fast = with_acme(Acme("one", "many"), objective="throughput")
    assert fast.manifest.device == "many"
    assert fast.manifest.streams > 1
    assert fast.report is not None and fast.report.chosen is not None
    assert f"{fast.manifest.streams} streams" in fast.report.chosen.name
    assert fast.report.objective == "throughput"
    one = next(item for item in fast.report.candidates if item.device == "one")
    assert fast.report.chosen.measurements[0].throughput > one.measurements[0].throughput


def test_size_counts_bytes_however_slow(with_acme: Accelerate) -> None:
    acme = Acme("one", levels=("large", "small"))
    small = with_acme(acme, objective="size")
    assert small.report is not None and small.report.chosen is not None
    assert (small.report.chosen.options["level"], small.report.chosen.size) == ("small", 64)
    quick = with_acme(acme, objective="latency")
    assert quick.report is not None and quick.report.chosen is not None
    assert (quick.report.chosen.options["level"], quick.report.chosen.size) == ("large", 4096)


def test_energy_counts_joules_where_the_machine_does(
    with_acme: Accelerate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = Acme("one", levels=("hungry", "sparing"))
    monkeypatch.setenv(POWERCAP_ENV, str(tmp_path / "powercap"))
    with pytest.raises(UnavailableError, match=r"energy is not measured(.|\n)*no counter"):
        with_acme(acme, objective="energy")
    domain = tmp_path / "powercap" / "intel-rapl:0"
    domain.mkdir(parents=True)
    for name, content in {"name": "package-0", "energy_uj": "5", "max_energy_range_uj": str(2**40)}.items():
        (domain / name).write_text(content)
    acme.counter = domain / "energy_uj"
    fast = with_acme(acme, objective="energy")
    assert fast.report is not None and fast.report.chosen is not None
    assert fast.report.chosen.options["level"] == "sparing" and "most sparing" in fast.report.chosen.reason
    (measured,) = fast.report.chosen.measurements
    assert measured.joules == pytest.approx(1e-3, rel=0.01)
    assert "mJ a call" in fast.report.to_markdown()
    hungry = next(item for item in fast.report.candidates if item.options.get("level") == "hungry")
    assert "times the energy of the chosen" in hungry.reason


def test_without_budget_there_is_still_something_true(with_acme: Accelerate) -> None:
    events: list[Event] = []
    fast = with_acme(Acme("one", levels=("large", "small")), budget=0, progress=events.append)
    assert fast.manifest.verified
    assert fast.report is not None
    outcomes = [item.outcome for item in fast.report.candidates if item.backend == "acme"]
    assert sorted(outcomes) == ["chosen", "skipped"]
    assert len([event for event in events if event.stage == "optimize" and event.seconds is None]) == 1
