"""Recipes of a walk: what is stated stays as it is, the rest is varied, and the cost of leaving layers is expected."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core.errors import OptionError
from optimum_core.plan import Way
from optimum_core.search.quantized.recipes import SHARES, Recipe, lean, variants, with_large_groups, with_small_cache
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import QuantizeConfig
from optimum_core.types.quantization import ALGORITHMS, CALIBRATIONS, SCHEMES

WAY = Way(backend="runner", device="cpu", precision="fp32", format="graph", exporter="e", exported="graph")


def _entry(config: QuantizeConfig) -> CandidateSpec:
    return CandidateSpec(way=WAY, config=config)


def _recipes(config: QuantizeConfig, *, calibrated: bool = True, promised: bool = True) -> list[Recipe]:
    return list(variants(_entry(config), calibrated=calibrated, promised=promised))


def _config(stated: dict[str, Any]) -> QuantizeConfig | None:
    try:
        return QuantizeConfig(**stated)
    except OptionError:
        return None


def _maybe(*values: Any) -> Any:
    return st.sampled_from([None, *values])


configs = (
    st.fixed_dictionaries(
        {
            "scheme": st.sampled_from(SCHEMES),
            "weights": st.sampled_from(["int8", "int4", "nf4"]),
            "per_channel": _maybe(True, False),
            "group_size": _maybe(-1, 64),
            "ratio": _maybe(1.0, 0.5),
            "algorithm": _maybe(*ALGORITHMS),
            "calibration": _maybe(*CALIBRATIONS),
            "smooth": _maybe(0.0, 0.7),
            "accuracy_control": _maybe(True, False),
            "exclude": st.sampled_from([(), ("classifier",)]),
        }
    )
    .map(_config)
    .filter(lambda config: config is not None)
)


@given(configs, st.booleans())
def test_what_is_stated_is_never_varied(config: QuantizeConfig, calibrated: bool) -> None:
    recipes = _recipes(config, calibrated=calibrated)
    assert recipes[0] == Recipe(spec=_entry(config))
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    stated = {item.name: getattr(config, item.name) for item in fields(config) if item.name != "exclude"}
    for recipe in recipes:
        varied = recipe.without(["a", "b", "c"]).config if recipe.left_out else recipe.spec.config
        assert varied is not None
        for name, value in stated.items():
            assert value is None or getattr(varied, name) == value
        if config.exclude:
            assert varied.exclude == config.exclude
        # Nothing that needs data is proposed where there is none, and the plain recipe needs none.
        assert calibrated or config.calibrates or not varied.calibrates


def test_methods_are_varied_before_layers_are_left() -> None:
    words = [recipe.words for recipe in _recipes(QuantizeConfig())]
    assert words[:5] == ["", "moving-average", "percentile", "entropy", "smooth 0.5"]
    assert [recipe.left_out for recipe in _recipes(QuantizeConfig())][5:-1] == list(SHARES)
    assert words[-1] == "accuracy control"
    assert "accuracy control" not in {recipe.words for recipe in _recipes(QuantizeConfig(), promised=False)}
    four = QuantizeConfig(scheme="weight-only", weights="int4")
    assert {"awq", "gptq", "scale-estimation", "groups of 32"} <= {recipe.words for recipe in _recipes(four)}
    assert not {"awq", "gptq"} & {recipe.words for recipe in _recipes(four, calibrated=False)}
    assert [recipe.words for recipe in _recipes(QuantizeConfig(scheme="dynamic"))][1:] == [
        f"the worst {share:.0%} of the layers in float" for share in SHARES
    ]


@pytest.mark.parametrize(
    ("share", "layers", "left"), [(0.05, 40, 2), (0.05, 3, 1), (0.5, 4, 2), (0.5, 2, 1), (0.3, 10, 3)]
)
def test_the_worst_layers_are_left_and_never_all(share: float, layers: int, left: int) -> None:
    ranked = [f"layer {number}" for number in range(layers)]
    config = Recipe(spec=_entry(QuantizeConfig()), left_out=share).without(ranked).config
    assert config is not None
    assert config.exclude == tuple(ranked[:left])


@given(st.floats(0.05, 3), st.floats(0.1, 2))
def test_leaving_more_layers_is_never_expected_to_be_faster(quantized: float, floating: float) -> None:
    expected = [
        Recipe(spec=_entry(QuantizeConfig()), left_out=share).expected(quantized, floating) for share in (0.0, *SHARES)
    ]
    assert expected[0] == quantized
    assert all(one <= other * (1 + 1e-12) for one, other in pairwise(expected))
    assert expected[-1] <= max(quantized, floating) * (1 + 1e-12)


def test_expectations_are_of_the_share_that_is_left() -> None:
    recipe = Recipe(spec=_entry(QuantizeConfig()), left_out=0.25)
    assert recipe.expected(0.4, 1.0) == pytest.approx(0.75 * 0.4 + 0.25)


def test_the_lean_recipe_is_static_and_varies_nothing_that_was_stated() -> None:
    found = lean(QuantizeConfig(scheme="static", per_channel=True))
    assert found is not None
    assert (found.activations, found.smooth, found.per_channel) == ("int8", 0.0, True)
    for stated in (
        QuantizeConfig(scheme="dynamic"),
        QuantizeConfig(activations="uint8"),
        QuantizeConfig(smooth=0.5),
        QuantizeConfig(accuracy_control=True),
    ):
        assert lean(stated) is None


def test_a_cache_in_fewer_bits_is_tried_where_a_backend_has_one_and_none_is_stated() -> None:
    config = QuantizeConfig(scheme="weight-only", weights="int4", group_size=32)
    found = with_small_cache(config, ("int8",))
    assert found is not None and found == QuantizeConfig(**{**config.to_dict(), "cache": "int8"})
    assert with_small_cache(config, ()) is None
    assert with_small_cache(found, ("int8",)) is None


def test_larger_groups_are_tried_where_4_bits_leave_them_open() -> None:
    found = with_large_groups(QuantizeConfig(scheme="dynamic", weights="int4"))
    assert found == QuantizeConfig(scheme="dynamic", weights="int4", group_size=128)
    for stated in (
        QuantizeConfig(scheme="dynamic", weights="int4", group_size=32),
        QuantizeConfig(scheme="weight-only", weights="int4", algorithm="awq"),
        QuantizeConfig(scheme="weight-only", weights="nf4"),
        QuantizeConfig(scheme="dynamic"),
    ):
        assert with_large_groups(stated) is None
