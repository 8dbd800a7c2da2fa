"""Ways that quantize follow from offers alone: who exports, who quantizes and who runs need not be the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core.errors import UnavailableError
from optimum_core.plan import Quantization, Target, Way, ways
from optimum_core.types import Limitation, Offer, Support, Transform


def _loop(*formats: str) -> tuple[Transform, ...]:
    return tuple(Transform(takes=name, gives=name) for name in formats)


LIVE = Support(offers=(Offer(device="cpu", live=True),))
EXPORTER = Support(offers=(Offer(device="any", exports=("graph",), routes=("quick", "careful")),))
RUNNER = Support(
    offers=(
        Offer(
            device="cpu",
            loads=("graph",),
            optimizes=_loop("graph"),
            levels=("all",),
            precisions=("fp32", "bf16"),
            runs=("static-int8", "weight-only-int4"),
            opset=21,
            prepares=True,
        ),
    )
)
ROUNDER = Support(offers=(Offer(device="cpu", quantizes=_loop("graph"), schemes=("static-int8",)),))
ENGINES = Support(
    offers=(
        Offer(
            device="sm_89",
            optimizes=(Transform(takes="graph", gives="engine"),),
            loads=("engine",),
            runs=("static-int8", "static-fp8"),
            proof="none",
        ),
    ),
    limitations=(
        Limitation(what="make FP8", reason="no FP8 tool", remedy="pip install fp8", hook="quantize"),
        Limitation(what="run what others quantize", reason="no GPU", remedy="add one", hook="load_session"),
    ),
)
ALL = {"engines": ENGINES, "exporter": EXPORTER, "live": LIVE, "rounder": ROUNDER, "runner": RUNNER}


def _quantized(target: Target, *schemes: str, rest: str = "auto") -> list[Way]:
    found = ways(ALL, target, quantization=Quantization(schemes=schemes, rest=rest))
    return [way for way in found if way.is_quantized]


def test_export_quantize_and_run_cross_plugins() -> None:
    (exact, half) = _quantized(Target(), "static-int8")
    assert (exact.exporter, exact.exported, exact.quantizer, exact.format) == ("exporter", "graph", "rounder", "graph")
    assert (exact.backend, exact.scheme, exact.precision) == ("runner", "static-int8", "fp32")
    assert (exact.routes, exact.transforms, exact.opset, exact.prepares) == (("quick", "careful"), (), 21, True)
    assert half.precision == "bf16"
    assert half.transforms == (("runner", "graph", "graph"),), "who writes the arithmetic into files does so here too"
    assert [way.precision for way in _quantized(Target(), "static-int8", rest="fp32")] == ["fp32"]


def test_what_was_quantized_is_transformed_afterwards() -> None:
    (way,) = _quantized(Target(backend="engines"), "static-int8")
    assert (way.exported, way.quantizer, way.format) == ("graph", "rounder", "engine")
    assert way.transforms == (("engines", "graph", "engine"),)


def test_auto_never_chooses_what_cannot_be_checked_here() -> None:
    assert {way.backend for way in _quantized(Target(), "static-int8")} == {"runner"}
    assert {way.backend for way in _quantized(Target(backend="engines"), "static-int8")} == {"engines"}


def test_unquantized_ways_come_first_and_stay() -> None:
    plain = ways(ALL, Target())
    found = ways(ALL, Target(), quantization=Quantization(schemes=("static-int8",)))
    assert found[: len(plain)] == plain
    assert all(way.is_quantized for way in found[len(plain) :])


def _refusal(target: Target, *schemes: str) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        _quantized(target, *schemes)
    return caught.value


def test_a_scheme_that_nothing_here_runs_is_told_with_those_that_run() -> None:
    error = _refusal(Target(), "static-fp8")
    assert error.who == "quantize static-fp8"
    assert "nothing on this machine runs it" in error.why
    assert "static-int8, weight-only-int4" in error.why
    assert "target 'live' runs it, nor any other" in _refusal(Target(backend="live"), "static-int8").why


def test_a_scheme_that_nobody_makes_is_told_with_what_would_help() -> None:
    assert "nothing installed quantizes so" in _refusal(Target(), "weight-only-int4").why
    why = _refusal(Target(backend="engines"), "static-fp8").why
    assert "no FP8 tool (pip install fp8)" in why and "no GPU" not in why


def test_a_family_is_found_where_one_of_its_schemes_is() -> None:
    found = _quantized(Target(), "dynamic-int8", "static-int8", "weight-only-int8")
    assert {way.scheme for way in found} == {"static-int8"}


formats = st.sampled_from(("a", "b", "c"))
several = st.lists(formats, max_size=2, unique=True).map(tuple)
steps = st.lists(st.builds(Transform, takes=formats, gives=formats), max_size=2, unique=True).map(tuple)
schemes = st.lists(st.sampled_from(("static-int8", "dynamic-int8", "static-fp8")), max_size=2, unique=True).map(tuple)
offers = st.builds(
    Offer,
    device=st.sampled_from(("cpu", "cuda")),
    exports=several,
    optimizes=steps,
    quantizes=steps,
    loads=several,
    schemes=schemes,
    runs=schemes,
    precisions=st.sampled_from((("fp32",), ("fp32", "bf16"), ("bf16",))),
    proof=st.sampled_from(("device", "none")),
)
worlds = st.dictionaries(
    st.sampled_from(("p", "q", "r")), offers.map(lambda offer: Support(offers=(offer,))), max_size=3
)


@given(worlds, st.sampled_from((Target(), Target(backend="p"))), st.sampled_from(("auto", "fp32")))
def test_every_quantized_way_is_offered_from_end_to_end(world: dict[str, Support], target: Target, rest: str) -> None:
    wanted = ("static-int8", "static-fp8")
    try:
        found = ways(world, target, quantization=Quantization(schemes=wanted, rest=rest))
    except UnavailableError:
        return
    quantized = [way for way in found if way.is_quantized]
    assert quantized, "no way is an error, not an empty answer"
    for way in quantized:
        (mine,) = world[way.backend].offers
        assert way.scheme in wanted
        assert way.scheme in mine.runs
        assert way.precision in mine.precisions
        assert rest in ("auto", way.precision)
        assert target.backend == way.backend or (target.backend is None and mine.proof == "device")
        assert way.exporter is not None
        assert way.quantizer is not None
        assert way.exported in world[way.exporter].offers[0].exports
        (rounder,) = world[way.quantizer].offers
        assert way.scheme in rounder.schemes
        held = [step.gives for step in rounder.quantizes if step.takes == way.exported]
        for backend, takes, gives in way.transforms:
            assert takes in held
            assert Transform(takes=takes, gives=gives) in world[backend].offers[0].optimizes
            held = [gives]
        assert way.format in held
        assert way.format in mine.loads
