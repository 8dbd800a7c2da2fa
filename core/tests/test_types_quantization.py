"""QuantizeConfig: what it accepts, what it refuses, and that nothing is lost on the way through a file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core.errors import OptionError
from optimum_core.types import QuantizeConfig


@given(
    weights=st.sampled_from(["int8", "uint8"]),
    activations=st.sampled_from([None, "int8", "uint8"]),
    per_channel=st.sampled_from([None, True, False]),
    calibration=st.sampled_from([None, "minmax", "entropy", "percentile"]),
    smooth=st.none() | st.floats(0, 1),
    exclude=st.lists(st.text(min_size=1), max_size=3),
)
def test_a_config_survives_a_round_trip(**stated: Any) -> None:
    config = QuantizeConfig(scheme="static", **stated)
    assert QuantizeConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scheme": "statik"}, "static, dynamic, weight-only"),
        ({"weights": "int7"}, "int8"),
        ({"per_chanel": True}, "did you mean 'per_channel'"),
        ({"scheme": "dynamic", "calibration": "entropy"}, "says nothing to scheme 'dynamic'"),
        ({"scheme": "weight-only", "weights": "int8", "group_size": 32}, "group_size"),
        ({"percentile": 99.9}, "percentile"),
        ({"calibration": "percentile", "percentile": 101}, "at most 100"),
        ({"smooth": True}, "0 to 1"),
        ({"symmetric": "yes"}, "true or false"),
        ({"exclude": [1]}, "names of layers"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        QuantizeConfig.from_dict(values)


@pytest.mark.parametrize("name", ["static-int8", "dynamic-int8", "weight-only-int4", "weight-only-nf4", "static-fp8"])
def test_a_scheme_has_one_name(name: str) -> None:
    assert QuantizeConfig.named(name).name == name


def test_unsigned_weights_are_of_the_same_scheme() -> None:
    assert QuantizeConfig(weights="uint8").name == "static-int8"


def test_what_needs_data() -> None:
    assert QuantizeConfig().calibrates
    assert QuantizeConfig(scheme="weight-only", weights="int4", algorithm="awq").calibrates
    assert not QuantizeConfig(scheme="dynamic").calibrates
    assert not QuantizeConfig(scheme="weight-only", weights="int4").calibrates
