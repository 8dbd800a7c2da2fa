"""No huge value, row or channel hides the errors of the others; what is evenly spread is measured as one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core import error_scales
from optimum_core.verify import compare, tolerance_of

RNG = np.random.default_rng(3)
SCORES = RNG.standard_normal((6, 50))
LOWEST = float(np.finfo(np.float32).min)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False), max_size=30))
def test_exponents_are_those_of_numpy_each_once(values: list[float]) -> None:
    size = np.abs(np.array(values, dtype=np.float64))
    _, exponents = np.frexp(size[size > 0])
    assert error_scales._exponents(size).tolist() == np.unique(exponents).tolist()


def test_parts_are_found_over_more_values_than_are_counted_at_once() -> None:
    want = np.full(2**20 + 3, 0.5)
    want[-1] = 1e9
    have = want + 1e-2
    assert error_scales.relative_error(want, have) == pytest.approx(2e-2, rel=1e-3)


def _masked(values: np.ndarray, low: float, share: float) -> np.ndarray:
    chosen = np.random.default_rng(5).random(values.shape) < share
    chosen[:, 0] = False
    return np.where(chosen, low, values)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("low", [-1e3, -1e4, -1e9, 1e6, LOWEST])
def test_a_fill_value_hides_no_error(low: float, share: float) -> None:
    want, have = _masked(SCORES, low, share), _masked(SCORES + 0.2, low, share)
    plain = error_scales.relative_error(_masked(SCORES, 0.0, share), _masked(SCORES + 0.2, 0.0, share))
    assert plain <= error_scales.relative_error(want, have) < 3 * plain
    assert error_scales.norm_error(want, have) > 0.1
    assert not compare("case", {}, "logits", want, have, tolerance_of("fp32")).passed
    assert compare("case", {}, "logits", want, want * (1 + 1e-6), tolerance_of("fp32")).passed


def test_a_fill_value_makes_no_ties() -> None:
    want = np.array([[0.5, 0.1, -1e9], [0.2, 0.4, -1e9]])
    have = np.array([[0.1, 0.5, -1e9], [0.2, 0.4, -1e9]])
    assert error_scales.agreement(want, have, 1e-3) == 0.5
    assert error_scales.agreement(want, want[:, [0, 1, 2]] + np.array([0.0, 0.0, 1.0]), 1e-3) == 1.0


def test_near_ties_count_as_the_same_by_the_row() -> None:
    want = np.array([[5.0, 4.999, 0.0], [0.010, 0.0095, 0.0]])
    have = np.array([[4.999, 5.0, 0.0], [0.0095, 0.010, 0.0]])
    assert error_scales.agreement(want, have, 1e-3) == 0.5
    assert error_scales.agreement(want, have, 0.0) == 0.0


@pytest.mark.parametrize("axis", [0, 1])
def test_a_channel_or_row_of_another_scale_is_measured_by_its_own(axis: int) -> None:
    """Boxes in pixels beside scores below 1."""
    want = np.concatenate([RNG.uniform(1, 1000, (40, 4)), RNG.uniform(0, 1, (40, 1))], axis=1)
    have = want.copy()
    have[:, 4] += 0.3
    if axis == 0:
        want, have = want.T, have.T
    assert error_scales.relative_error(want, have) > 0.25
    assert error_scales.relative_error(want, want * (1 + 1e-6)) < 1e-5


def test_what_is_evenly_spread_is_measured_as_one() -> None:
    """Small values of a softmax, and a channel that all but cancels, are not held to a scale of their own."""
    soft = np.exp(8 * SCORES) / np.exp(8 * SCORES).sum(axis=-1, keepdims=True)
    assert error_scales.relative_error(soft, soft + 1e-5) < 1e-4
    dead = SCORES.copy()
    dead[:, 3] = 1e-7
    assert error_scales.relative_error(dead, dead + 1e-6) < 1e-3
    assert error_scales.cosine(np.zeros(3), np.zeros(3)) == 1.0
    assert error_scales.cosine(np.zeros(3), np.ones(3)) == 0.0
    assert error_scales.relative_error(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


def test_a_single_value_has_no_scale_of_its_own() -> None:
    """In one row, some value is near zero by chance; each channel has no other value to be measured by."""
    want = np.linspace(0.01, 1.0, 384)[None]
    want[0, 0] = 1e-6
    assert error_scales.relative_error(want, want + 1e-7) == pytest.approx(1e-7, rel=0.01)


@pytest.mark.parametrize("low", [-1e4, -1e9, LOWEST, -np.inf])
def test_only_rounding_is_taken_for_rounding(low: float) -> None:
    want = _masked(SCORES, low, 0.3)
    assert error_scales.is_rounding(want, np.where(want == low, low, want * (1 + 1e-7)))
    assert not error_scales.is_rounding(want, np.where(want == low, low, want + 1e-3))


@pytest.mark.parametrize("values", [[30.0, 0.1], [-400.0, 0.9, 350.0], [1e3, 2.0]])
def test_the_rounding_of_greater_values_is_taken_for_rounding_beside_them(values: list[float]) -> None:
    want = np.array(values)[:, None]
    errors = np.linspace(0.5, 1.0, len(values))[:, None] * np.abs(want).max() * 2e-7
    assert error_scales.is_rounding(want, want + errors)
    assert not error_scales.is_rounding(want, want + np.where(np.abs(want) == np.abs(want).max(), 0.0, 1e-3))
    assert not error_scales.is_rounding(want, want * (1 + 2e-3))


def test_rounding_is_not_where_infinity_or_a_small_channel_differs() -> None:
    want = SCORES * np.where(np.arange(50) < 25, 1.0, 1e4)
    assert error_scales.is_rounding(want, want + 1e-3 * 1e4 * 1e-7)
    assert not error_scales.is_rounding(want, want + np.where(np.arange(50) < 25, 0.1, 0.0))
    assert not error_scales.is_rounding(np.array([1.0, np.inf]), np.array([1.0, -np.inf]))
    assert not error_scales.is_rounding(np.array([1.0, 2.0]), np.array([1.0, np.nan]))


def test_a_value_near_zero_among_large_ones_by_chance_is_held_to_their_rounding() -> None:
    """A linear layer with large weights: one sum in a hundred is near zero, and its error is that of its terms."""
    want = 1e6 * np.random.default_rng(7).standard_normal((13, 8))
    want[3, 4] = 20.0
    have = want + 0.2 * np.random.default_rng(8).choice([-1, 1], want.shape)
    assert compare("case", {}, "output", want, have, tolerance_of("fp32")).passed
    assert error_scales.cosine(want, np.where(want == 20.0, -20.0, want)) == pytest.approx(1.0)
    assert error_scales.relative_error(want, np.where(want == 20.0, 20.0 + 5e4, want)) > 1e-2
