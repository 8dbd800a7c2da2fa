"""On another machine: what runs the artifact as eager did, and fastest; what does not is told and left out."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from clocks import Clock
from optimum_core import accelerate, artifact, load, measure
from optimum_core.artifact import Manifest
from optimum_core.artifact.names import CHECK_FILE
from optimum_core.cli.app import app
from optimum_core.errors import OptionError, SessionError, VerificationError
from optimum_core.hardware import detect
from optimum_core.hookspecs import hookimpl
from optimum_core.measure import Effort
from optimum_core.plugins import PluginManager
from optimum_core.search.retune import retune
from optimum_core.types import (
    Array,
    CandidateResult,
    Hardware,
    ModelTraffic,
    Offer,
    Report,
    Session,
    SessionRequest,
    ShapeCount,
    Support,
    Traffic,
)
from optimum_core.verify.carried_call import read_check

Arrays = Mapping[str, Any]
QUICK = Effort(rounds=2, seconds=0.005, hopeless=math.inf, steady=math.inf)
SHAPES = [(2, 9)]
#: Advances by the time of a call of Acme; other calls take no time.
CLOCK = Clock()


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    with measure.measuring(QUICK, clock=CLOCK):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def saved(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT on ONNX Runtime, tuned with an option."""
    cache, place = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("saved") / "bert"
    settings: dict[str, Any] = {"shapes": ({"batch": 1},), "budget": 0, "cache_dir": cache}
    with accelerate(tiny("bert"), target="ort", level="all", options={"intra_op_threads": 1}, **settings) as fast:
        fast.save_pretrained(place)
    return place


class Acme:
    """A backend that knows the one answer that the artifact carries, and repeats it in its own way."""

    def __init__(
        self,
        name: str,
        place: Path,
        *,
        deed: Callable[[Arrays], Arrays] = lambda outputs: outputs,
        seconds: float = 0.001,
        precisions: tuple[str, ...] = ("fp32",),
        loads: str = "onnx",
        refuses: str = "",
    ) -> None:
        self.name, self.deed, self.seconds, self.refuses = name, deed, seconds, refuses
        self.offer = Offer(device="cpu", loads=(loads,), precisions=precisions)
        self.answer = read_check(artifact.load(place), place).outputs
        self.sessions: list[AcmeSession] = []

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        return Support(offers=(self.offer,))

    @hookimpl
    def load_session(self, request: SessionRequest) -> Session | None:
        if request.backend != self.name:
            return None
        if self.refuses:
            raise SessionError(f"backend {self.name!r}", self.refuses, "use another")
        self.sessions.append(AcmeSession(self.name, request))
        return self.sessions[-1]

    @hookimpl
    def infer(self, session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
        if not isinstance(session, AcmeSession) or session.backend != self.name:
            return None
        session.shapes.append(tuple(inputs["input_ids"].shape))
        CLOCK.seconds += self.seconds * (0.2 if session.precision != "fp32" else 1.0)
        return self.deed(self.answer)


class AcmeSession:
    device = "cpu"

    def __init__(self, name: str, request: SessionRequest) -> None:
        self.backend = name
        self.precision = request.precision
        self.inputs, self.outputs = request.artifact.inputs, request.artifact.outputs
        self.shapes: list[tuple[int, ...]] = []
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def _retuned(saved: Path, *backends: Acme, precision: str = "fp32", shapes: Any = SHAPES) -> Manifest:
    plugins = PluginManager([])
    for backend in backends:
        plugins.register(backend, backend.name)
    return retune(artifact.load(saved), saved, plugins, precision=precision, shapes=shapes)


def _of(manifest: Manifest, backend: str) -> CandidateResult:
    assert manifest.report is not None
    return next(item for item in manifest.report.candidates if item.backend == backend)


def _off(outputs: Arrays) -> Arrays:
    return {name: array * 1.5 for name, array in outputs.items()}


def test_the_fastest_that_is_true_wins(saved: Path) -> None:
    slow, quick = Acme("slow", saved, seconds=0.02), Acme("quick", saved)
    found = _retuned(saved, slow, quick)
    assert (found.backend, found.device, found.precision) == ("quick", "cpu", "fp32")
    assert [item.outcome for item in (_of(found, "quick"), _of(found, "slow"))] == ["chosen", "slower"]
    assert "times the time of the chosen" in _of(found, "slow").reason
    assert found.report is not None and found.report.candidates[0].backend == "quick"
    assert found.report.workload == ("2x9",)


def test_what_is_wrong_is_left_out_however_fast(saved: Path) -> None:
    wrong, slow = Acme("wrong", saved, deed=_off), Acme("slow", saved, seconds=0.02)
    found = _retuned(saved, wrong, slow)
    assert found.backend == "slow"
    result = _of(found, "wrong")
    assert (result.outcome, result.measurements) == ("wrong", ())
    assert "relative error" in result.reason
    assert result.fidelity is not None and not result.fidelity.passed
    # It was run on the carried call alone, and closed.
    assert len(wrong.sessions[0].shapes) == 1
    assert wrong.sessions[0].closed == 1


def test_what_does_not_open_says_why(saved: Path) -> None:
    found = _retuned(saved, Acme("broken", saved, refuses="no such operator"), Acme("good", saved))
    assert (_of(found, "broken").outcome, _of(found, "broken").reason) == ("failed", "no such operator")


def test_where_nothing_is_true_all_reasons_are_given(saved: Path) -> None:
    broken, wrong = Acme("broken", saved, refuses="no such operator"), Acme("wrong", saved, deed=_off)
    with pytest.raises(VerificationError) as raised:
        _retuned(saved, broken, wrong)
    assert "onnx → broken cpu: no such operator" in raised.value.why
    assert "onnx → wrong cpu: the call that the artifact carries, logits: relative error" in raised.value.why


def test_who_reads_another_format_is_not_asked(saved: Path) -> None:
    other = Acme("other", saved, loads="acme")
    _retuned(saved, other, Acme("good", saved))
    assert other.sessions == []


def test_every_session_is_closed_once(saved: Path) -> None:
    backends = [Acme("slow", saved, seconds=0.01), Acme("quick", saved), Acme("wrong", saved, deed=_off)]
    _retuned(saved, *backends)
    assert [session.closed for backend in backends for session in backend.sessions] == [1, 1, 1]


@pytest.mark.parametrize(("asked", "tried", "won"), [("fp32", 1, "fp32"), ("bf16", 1, "bf16"), ("auto", 2, "bf16")])
def test_precisions_compete_where_that_was_asked_for(asked: str, tried: int, won: str, saved: Path) -> None:
    backend = Acme("acme", saved, seconds=0.02, precisions=("fp32", "bf16"))
    found = _retuned(saved, backend, precision=asked)
    assert len(backend.sessions) == tried
    assert found.precision == won


def test_it_is_timed_at_the_shapes_that_were_stated(saved: Path) -> None:
    backend = Acme("acme", saved)
    check = read_check(artifact.load(saved), saved)
    _retuned(saved, backend, shapes=[(3, 40), (1, 5)])
    first, *rest = backend.sessions[0].shapes
    assert first == check.inputs["input_ids"].shape
    assert set(rest) == {(3, 40), (1, 5)}


def test_the_manifest_tells_of_this_machine(saved: Path) -> None:
    there = artifact.load(saved)
    assert dict(there.session_options) == {"intra_op_threads": 1}
    found = _retuned(saved, Acme("acme", saved))
    assert dict(found.session_options) == {}
    assert found.hardware == detect()
    assert (found.files, found.steps, found.fidelity) == (there.files, there.steps, there.fidelity)


def test_load_retunes_with_what_is_installed(saved: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    shutil.copytree(saved, place)
    there = artifact.load(place)
    for name in ("optimum.json", "README.md"):  # the card is no part of the artifact
        (place / name).unlink()
    strange = dataclasses.replace(there.hardware, cpu=dataclasses.replace(there.hardware.cpu, model="Another 9000"))
    artifact.write(place, dataclasses.replace(there, hardware=strange))
    ids = np.array([[5, 6, 7, 8]])
    with load(saved) as before, load(place, retune=True, shapes=SHAPES) as after:
        np.testing.assert_allclose(after(input_ids=ids).logits, before(input_ids=ids).logits, rtol=1e-3, atol=1e-4)
        report = after.report
        assert isinstance(report, Report) and report.chosen is not None
        assert report.chosen.backend == after.backend
        after.save_pretrained(tmp_path / "tuned here")
    load(tmp_path / "tuned here").close()  # a warning would be an error


def test_the_carried_call_is_part_of_what_is_checked(saved: Path, tmp_path: Path) -> None:
    place = tmp_path / "altered"
    shutil.copytree(saved, place)
    check = read_check(artifact.load(place), place)
    assert set(check.inputs) == {spec.name for spec in artifact.load(place).inputs}
    assert CHECK_FILE in artifact.load(place).files


def test_retune_measures_what_came_and_says_so(saved: Path, tmp_path: Path) -> None:
    fingerprint = artifact.load(saved).model.fingerprint
    lengths = [({"batch": 1, "sequence": 6}, 30), ({"batch": 2, "sequence": 9}, 10)]
    calls = tuple(ShapeCount(lengths=found, count=count) for found, count in lengths)
    traffic = ModelTraffic(name="a", fingerprint=fingerprint, calls=calls)
    file = tmp_path / "traffic.json"
    file.write_text(Traffic(models=(traffic,)).to_json())
    arguments = ["retune", str(saved), "--traffic", str(file), "--out", str(tmp_path / "tuned")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "Saved to" in done.output
    with load(tmp_path / "tuned") as model:
        assert model.report is not None and model.report.chosen is not None
        assert {one.shape: one.calls for one in model.report.chosen.measurements} == {
            "batch=1 sequence=6": 30, "batch=2 sequence=9": 10,
        }  # fmt: skip
        assert any("75% at batch=1 sequence=6" in note for note in model.report.notes)
    file.write_text(Traffic(models=(dataclasses.replace(traffic, fingerprint="f"),)).to_json())
    with pytest.raises(OptionError, match="of other models"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
