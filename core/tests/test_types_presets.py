"""Presets are what their hardware multiplies without overflow; a drop is read as it was meant."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core.errors import OptionError
from optimum_core.types import QuantizeConfig
from optimum_core.types.presets import PRESETS, preset
from optimum_core.types.quantization import parse_drop


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_never_multiplies_what_its_hardware_cannot(name: str) -> None:
    config = preset(name)
    assert (config.scheme, config.weights, config.per_channel) == ("static", "int8", True)
    # Sums of two uint8 by int8 products fit 16 bits with 7-bit weights alone: where there is no VNNI.
    assert config.reduce_range is (name in ("avx2", "avx512"))
    # The dot products of Arm, and TensorRT's, are of signed values, and the latter has no zero points.
    signed = name in ("arm64", "tensorrt")
    assert config.activations == ("int8" if signed else "uint8")
    assert config.symmetric is (True if signed else None)
    assert config.form == ("qdq" if name == "tensorrt" else None)
    assert QuantizeConfig.from_dict(config.to_dict()) == config


def test_without_calibration_a_preset_is_dynamic_and_keeps_its_range() -> None:
    for name in PRESETS:
        if name == "tensorrt":
            with pytest.raises(OptionError, match=r"no dynamic quantization(.|\n)*calibration="):
                preset(name, static=False)
            continue
        config = preset(name, static=False)
        assert (config.name, config.activations, config.form) == ("dynamic-int8", None, None)
        assert config.reduce_range is preset(name).reduce_range


def test_an_unknown_preset_is_told_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'sse2'(.|\n)*arm64, avx2, avx512, avx512_vnni, ppc64le, tensorrt"):
        preset("sse2")


numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers)
def test_a_share_is_of_the_models_value_and_a_number_is_itself(amount: float, baseline: float) -> None:
    assert parse_drop(amount).limit(baseline) == parse_drop(str(amount)).limit(baseline) == amount
    share = parse_drop(f" {amount!r} %")
    assert share.relative
    assert share.limit(baseline) == pytest.approx(amount * abs(baseline) / 100)
    assert math.copysign(1, share.limit(1.0)) == math.copysign(1, amount)


@given(st.text(max_size=6) | st.booleans() | st.none() | st.lists(st.floats()) | st.integers() | st.floats())
def test_a_drop_is_a_finite_number_or_refused(value: Any) -> None:
    try:
        drop = parse_drop(value)
    except OptionError as error:
        assert "max_drop" in error.who
        assert '"1%"' in error.remedy
        return
    assert math.isfinite(drop.amount)
    assert not isinstance(value, bool)
    assert drop.relative == (isinstance(value, str) and value.strip().endswith("%"))


def test_a_number_too_large_to_be_one_is_refused() -> None:
    with pytest.raises(OptionError, match="max_drop"):
        parse_drop(10**400)
