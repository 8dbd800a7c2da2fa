"""On busy cores, calls whose time does not count run on one thread; timed calls run as the user's do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from optimum_core.models.eager import threads
from optimum_core.models.eager.threads import fitting_threads, usual_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _times(monkeypatch: pytest.MonkeyPatch, *, one: float, several: float) -> None:
    monkeypatch.setattr(threads, "_seconds", lambda: one if torch.get_num_threads() == 1 else several)


def test_threads_that_hinder_each_other_are_left_out_but_for_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    _times(monkeypatch, one=1.0, several=5.0)
    with fitting_threads():
        assert torch.get_num_threads() == 1
        with usual_threads():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_threads_that_gain_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    _times(monkeypatch, one=1.0, several=0.6)
    with fitting_threads(), usual_threads():
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2


def test_an_error_restores_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    _times(monkeypatch, one=1.0, several=5.0)
    with pytest.raises(ValueError, match="why"), fitting_threads():
        raise ValueError("why")
    assert torch.get_num_threads() == 2


def test_one_thread_is_never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(threads, "_seconds", lambda: pytest.fail("it was measured"))
    with fitting_threads():
        assert torch.get_num_threads() == 1
