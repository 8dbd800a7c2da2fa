"""Ways follow from offers alone: formats chain, no ability is assumed, no backend is known by name."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import optimum_core
from optimum_core.errors import OptionError, UnavailableError
from optimum_core.plan import Quantization, Target, Way, parse_target, stateful_ways, ways
from optimum_core.request import check_level
from optimum_core.types import Limitation, Offer, Support, Transform

LIVE = Support(offers=(Offer(device="cpu", exports=("plain",), loads=("plain",), live=True),))
EXPORTER = Support(offers=(Offer(device="any", exports=("graph",), routes=("quick", "careful")),))
RUNNER = Support(
    offers=(
        Offer(
            device="cpu",
            optimizes=(Transform(takes="graph", gives="graph"),),
            levels=("all", "basic"),
            loads=("graph",),
            opset=21,
        ),
        Offer(device="CUDA", loads=("graph",), precisions=("fp32", "fp16")),
    )
)
ENGINES = Support(
    offers=(Offer(device="gpu", optimizes=(Transform(takes="graph", gives="engine"),), loads=("engine",)),)
)
ABSENT = Support(limitations=(Limitation(what="run", reason="acme-rt not installed", remedy="pip install acme-rt"),))
ALL = {"live": LIVE, "exporter": EXPORTER, "runner": RUNNER, "engines": ENGINES, "absent": ABSENT}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("auto", Target()),
        ("runner", Target(backend="runner")),
        ("runner:cuda:0", Target(backend="runner", device="cuda:0")),
        ("runner:cpu:0", Target(backend="runner", device="cpu:0")),
        ("runner:GPU", Target(backend="runner", device="gpu")),
        (" runner ", Target(backend="runner")),
        ("builder:sm_89", Target(backend="builder", device="sm_89")),
    ],
)
def test_a_target_is_a_backend_and_perhaps_a_device(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "  ", ":", "::"])
def test_a_target_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="names nothing"):
        parse_target(text)


@pytest.mark.parametrize("text", ["runner:cpu:7", "runner:CPU:1", "runner:cpu:x"])
def test_a_processor_has_no_number(text: str) -> None:
    with pytest.raises(OptionError, match=r"one processor(.|\n)*pass 'runner:cpu'"):
        parse_target(text)


@pytest.mark.parametrize("given", [None, 3, ["ort", "openvino"]])
def test_a_target_is_one_text(given: Any) -> None:
    with pytest.raises(OptionError, match=r"of type (NoneType|int|list)(.|\n)*pass one text"):
        parse_target(given)


def _ways(target: str, **settings: Any) -> tuple[Way, ...]:
    return ways(ALL, parse_target(target), **settings)


@pytest.mark.parametrize(
    ("device", "told"),
    [("npu:1", r"cannot use NPUs: no chip \(buy one\)$"), ("gpu", r"cannot open: no driver \(add it\)$")],
)
def test_a_device_that_is_not_offered_is_told_by_its_own_limitations_else_by_those_of_sessions(
    device: str, told: str
) -> None:
    limits = (
        Limitation(what="use NPUs", reason="no chip", remedy="buy one", hook="load_session", device="npu"),
        Limitation(what="open", reason="no driver", remedy="add it", hook="load_session"),
        Limitation(what="run on 'npu' at all", reason="no tool", remedy="find it", hook="optimize"),
    )
    supports = {"exporter": EXPORTER, "runner": replace(RUNNER, limitations=limits)}
    with pytest.raises(UnavailableError) as raised:
        ways(supports, Target(backend="runner", device=device))
    assert re.search(told, raised.value.why)


def test_a_level_that_is_missing_here_is_told_by_its_limitation() -> None:
    limit = Limitation(what="fuse", reason="no tool", remedy="pip install tool", hook="optimize", level="fused")
    supports = {"runner": replace(RUNNER, limitations=(limit,))}
    with pytest.raises(OptionError, match=r"not here: no tool\n.*pip install tool"):
        check_level("fused", Target(backend="runner"), supports)
    with pytest.raises(OptionError, match="use all, basic"):
        check_level("fuse", Target(backend="runner"), supports)


def test_auto_finds_every_way() -> None:
    assert [(way.backend, way.device, way.format) for way in _ways("auto")] == [
        ("engines", "gpu", "engine"),
        ("live", "cpu", None),
        ("runner", "cpu", "graph"),
        ("runner", "CUDA", "graph"),
    ]


def test_a_way_has_the_exporters_routes_and_the_loaders_levels() -> None:
    way = _ways("runner:cpu")[0]
    assert (way.exporter, way.exported, way.routes) == ("exporter", "graph", ("quick", "careful"))
    assert (way.levels, way.opset, way.transforms) == (("all", "basic"), 21, ())
    assert not way.is_eager


def test_a_chain_crosses_backends() -> None:
    (way,) = _ways("engines")
    assert (way.exporter, way.exported, way.format) == ("exporter", "graph", "engine")
    assert way.transforms == (("engines", "graph", "engine"),)
    assert way.levels == (None,)


def test_levels_belong_to_those_who_optimize_what_they_load() -> None:
    with pytest.raises(
        UnavailableError, match="level 'all' of target 'runner:cuda': nothing here that fits is optimized"
    ):
        _ways("runner:cuda", level="all")
    assert _ways("runner:cpu", level="basic")[0].levels == ("basic",)


def test_a_live_way_needs_no_export() -> None:
    (way,) = _ways("live")
    assert way.is_eager
    assert (way.exporter, way.routes, way.levels) == (None, (None,), (None,))


@pytest.mark.parametrize(("target", "device"), [("runner:CUDA", "cuda"), ("runner:cuda:1", "cuda:1")])
def test_a_device_is_found_in_any_case_and_keeps_its_index(target: str, device: str) -> None:
    assert [way.device for way in _ways(target)] == [device]


def test_precision_narrows_the_offers() -> None:
    assert [(way.backend, way.device) for way in _ways("auto", precision="fp16")] == [("runner", "CUDA")]


def test_every_float_precision_competes_where_none_is_named() -> None:
    found = [(way.device, way.precision) for way in _ways("runner", precision="auto")]
    assert found == [("cpu", "fp32"), ("CUDA", "fp32"), ("CUDA", "fp16")]


def test_a_named_level_leaves_out_what_it_has_no_effect_on() -> None:
    """The runner loads engines as well, which it does not optimize: at a level, they would compete without it."""
    offer = replace(RUNNER.offers[0], loads=("graph", "engine"))
    supports = {**ALL, "runner": replace(RUNNER, offers=(offer,))}
    free = ways(supports, Target(backend="runner"))
    named = ways(supports, Target(backend="runner"), level="basic")
    assert {(way.format, way.levels) for way in free} == {("graph", ("all", "basic")), ("engine", (None,))}
    assert {(way.format, way.levels) for way in named} == {("graph", ("basic",))}


def test_a_live_model_competes_as_it_is_and_at_its_levels() -> None:
    world = {"live": Support(offers=(Offer(device="cpu", live=True, levels=("compiled",)),))}
    (way,) = ways(world, Target())
    assert way.levels == (None, "compiled")
    assert ways(world, Target(), level="compiled")[0].levels == ("compiled",)


def _refusal(target: str, **settings: Any) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        _ways(target, **settings)
    return caught.value


def test_what_is_missing_is_told_with_its_remedy() -> None:
    error = _refusal("absent")
    assert "acme-rt not installed" in error.why
    assert "pip install acme-rt" in error.why
    assert "absent" in error.who


def test_a_device_that_is_not_here_is_told_with_those_that_are() -> None:
    error = _refusal("runner:npu")
    assert error.who == "target 'runner:npu'"
    assert "cpu, cuda" in error.why


def test_a_precision_that_nobody_has_is_told_with_those_there_are() -> None:
    error = _refusal("runner", precision="int4")
    assert "int4" in error.why
    assert "fp32, fp16" in error.why


def test_nobody_to_export_is_no_way() -> None:
    with pytest.raises(UnavailableError):
        ways({"runner": RUNNER}, Target())
    with pytest.raises(UnavailableError):
        ways({}, Target())


formats = st.sampled_from(("a", "b", "c", "d"))
several = st.lists(formats, max_size=2, unique=True).map(tuple)
transforms = st.lists(st.builds(Transform, takes=formats, gives=formats), max_size=2).map(tuple)
offers = st.builds(
    Offer,
    device=st.sampled_from(("cpu", "cuda", "any")),
    exports=several,
    optimizes=transforms,
    levels=st.sampled_from(((), ("one",), ("one", "two"))),
    loads=several,
    live=st.booleans(),
    precisions=st.sampled_from((("fp32",), ("fp32", "fp16"), ("fp16",))),
)
limited = st.just(ABSENT)
offering = st.lists(offers, min_size=1, max_size=2).map(lambda found: Support(offers=tuple(found)))
TARGETS = (Target(), Target(backend="p"), Target(device="cuda:1"), Target(backend="q", device="cpu"))
worlds = st.dictionaries(st.sampled_from(("p", "q", "r", "s")), offering | limited, max_size=4)


@given(worlds, st.sampled_from(TARGETS), st.sampled_from(("fp32", "fp16", "auto")))
def test_every_way_is_offered_from_end_to_end(world: dict[str, Support], target: Target, precision: str) -> None:
    try:
        found = ways(world, target, precision=precision)
    except UnavailableError:
        return
    assert len(set(found)) == len(found) or any(len(support.offers) > 1 for support in world.values())
    for way in found:
        assert precision in ("auto", way.precision)
        mine = world[way.backend].offers
        assert target.backend in (None, way.backend)
        assert target.device in (None, way.device)
        assert any(offer.device == way.device.partition(":")[0] and way.precision in offer.precisions for offer in mine)
        if way.is_eager:
            assert any(offer.live for offer in mine)
            continue
        assert way.exporter is not None
        assert any(way.exported in offer.exports for offer in world[way.exporter].offers)
        held = way.exported
        for backend, takes, gives in way.transforms:
            assert held == takes
            assert any(Transform(takes=takes, gives=gives) in offer.optimizes for offer in world[backend].offers)
            held = gives
        assert held == way.format
        assert any(way.format in offer.loads for offer in mine)


@given(worlds)
def test_nothing_is_found_for_those_who_can_do_nothing(world: dict[str, Support]) -> None:
    for name in [name for name, support in world.items() if not support.offers]:
        with pytest.raises(UnavailableError, match="acme-rt not installed"):
            ways(world, Target(backend=name))


#: Names of backends that are distributions of their own. "onnx" and "torch" are core's, and formats too.
FOREIGN = {"ort", "openvino", "trt", "coreml", "inc", "onnxruntime", "tensorrt", "nncf"}


def _code_strings(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    }


def test_core_names_no_backend() -> None:
    package = Path(optimum_core.__file__).parent
    named = {
        path.relative_to(package).as_posix(): found
        for path in sorted(package.rglob("*.py"))
        # The kit lists runtimes that a probe must not import; a preset is named after what people think in, and the
        # form of a model that is refused after the library that made it. The classes of other packages are for one
        # backend each.
        if not {"testing", "compat"} & set(path.parts) and path.name not in ("presets.py", "forms.py")
        if (found := {text.partition(":")[0] for text in _code_strings(path)} & FOREIGN)
    }
    assert not named


@pytest.mark.parametrize(
    "name",
    [
        "plan/matching.py",
        "plan/refusals.py",
        "search/spec.py",
        "search/race.py",
        "search/candidate_search.py",
        "measure/timing.py",
        "api.py",
    ],
)
def test_the_search_knows_not_even_cores_own_backends(name: str) -> None:
    assert not _code_strings(Path(optimum_core.__file__).parent / name) & {*FOREIGN, "torch", "onnx"}


def test_a_decoder_has_the_routes_and_levels_of_decoders_unless_a_level_is_named() -> None:
    exporter = Offer(
        device="any", exports=("graph",), routes=("quick",), stateful=("graph",), stateful_routes=("whole",)
    )
    runner = Offer(
        device="cpu",
        optimizes=(Transform(takes="graph", gives="graph"),),
        levels=("all", "basic"),
        loads=("graph",),
        stateful=("graph",),
        stateful_levels=("buffers", "all"),
    )
    supports = {"exporter": Support(offers=(exporter,)), "runner": Support(offers=(runner,))}
    target = Target(backend="runner")
    (way,) = stateful_ways(ways(supports, target), supports)
    assert (way.routes, way.levels) == (("whole",), ("buffers", "all"))
    (way,) = stateful_ways(ways(supports, target, level="basic"), supports)
    assert way.levels == ("basic",)


def test_a_decoder_is_quantized_by_schemes_that_quantizer_and_runner_have_for_decoders() -> None:
    loop = (Transform(takes="graph", gives="graph"),)
    offer = Offer(
        device="cpu", exports=("graph",), quantizes=loop, loads=("graph",), stateful=("graph",), levels=("all",),
        schemes=("static-int8", "weight-only-int8", "weight-only-int4"),
        runs=("static-int8", "weight-only-int8", "weight-only-int4"),
        stateful_schemes=("weight-only-int8", "weight-only-int4"), stateful_levels=("buffers",),
        stateful_caches=("int8",),
    )  # fmt: skip
    foreign = replace(offer, loads=(), exports=(), stateful=(), stateful_schemes=("weight-only-int4",))
    supports = {"own": Support(offers=(offer,)), "foreign": Support(offers=(foreign,))}
    asked = Quantization(schemes=("static-int8", "weight-only-int8", "weight-only-int4"))
    found = stateful_ways(ways(supports, Target(backend="own"), quantization=asked), supports)
    assert {(way.quantizer, way.scheme, way.levels) for way in found if way.is_quantized} == {
        ("own", "weight-only-int8", (None,)),
        ("own", "weight-only-int4", (None,)),
        ("foreign", "weight-only-int4", (None,)),
    }
    assert {way.caches for way in found} == {(), ("int8",)}
    assert all(bool(way.caches) == way.is_quantized for way in found)
