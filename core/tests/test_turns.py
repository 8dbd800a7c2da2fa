"""Calls of `accelerate` in several threads: exporters of torch keep global state, so one search waits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core import accelerate, turns
from optimum_core.turns import one_at_a_time, turn_lent
from optimum_core.types import Event

#: Seconds for what takes less than one.
PATIENCE = 120.0


def _exported(module: torch.nn.Module, progress: Callable[[Event], None], cache: Path) -> bool:
    samples = {"input": torch.randn(2, 4)}
    fast = accelerate(module, target="onnx", sample_inputs=samples, progress=progress, cache_dir=cache)
    return bool(fast.manifest.verified)


def test_a_second_search_waits_for_the_first(tmp_path: Path) -> None:
    exporting, queued = threading.Event(), threading.Event()

    def first(event: Event) -> None:
        if event.stage == "export":
            exporting.set()
            assert queued.wait(PATIENCE), "the second search ran beside this export"

    def second(event: Event) -> None:
        if event.stage == "wait":
            queued.set()

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(_exported, torch.nn.Linear(4, 3).eval(), first, tmp_path)
        assert exporting.wait(PATIENCE)
        other = pool.submit(_exported, torch.nn.Linear(4, 5).eval(), second, tmp_path)
        assert one.result() and other.result()


def test_a_search_within_a_search_does_not_wait_for_itself() -> None:
    waits: list[str] = []
    with one_at_a_time(lambda: waits.append("outer")) as outer, one_at_a_time(lambda: waits.append("inner")) as inner:
        assert (outer, inner, waits) == (False, False, [])


def test_a_search_that_fails_lets_the_next_one_begin() -> None:
    with pytest.raises(RuntimeError), one_at_a_time(lambda: None):
        raise RuntimeError

    def taken() -> bool:
        with one_at_a_time(lambda: None) as waited:
            return waited

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(taken).result() is False


def _evaluating_elsewhere(module: torch.nn.Module, cache: Path) -> Callable[[Any], float]:
    """Return an evaluation that waits for a search of another thread."""

    def evaluate(fast: Any) -> float:
        fast(input=torch.ones(2, 4))
        with ThreadPoolExecutor(1) as pool:
            return float(pool.submit(_exported, module, lambda event: None, cache).result(PATIENCE))

    return evaluate


def test_an_evaluation_may_wait_for_a_search_of_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LENT_SECONDS", 0.1)
    module = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Linear(64, 3)).eval()
    rows = [{"input": torch.randn(2, 4)} for _ in range(32)]
    evaluate = _evaluating_elsewhere(torch.nn.Linear(4, 5).eval(), tmp_path)
    fast = accelerate(
        module, target="ort", quantize="int8", sample_inputs=rows[0], calibration=rows, evaluate=evaluate,
        cache_dir=tmp_path,
    )  # fmt: skip
    assert fast.report is not None and fast.report.promise is not None and fast.report.promise.value == 1.0


def test_a_search_goes_on_once_those_that_its_turn_was_lent_to_are_done() -> None:
    order: list[str] = []
    borrowed, may_end = threading.Event(), threading.Event()

    def other() -> None:
        with one_at_a_time():
            borrowed.set()
            assert may_end.wait(PATIENCE)
            order.append("the other one")

    with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch, one_at_a_time():
        patch.setattr(turns, "LENT_SECONDS", 0.0)
        with turn_lent():
            done = pool.submit(other)
            assert borrowed.wait(PATIENCE)
            threading.Timer(0.2, may_end.set).start()
        order.append("this one")
        done.result()
    assert order == ["the other one", "this one"]


def test_a_search_goes_on_before_others_that_wait() -> None:
    order: list[str] = []
    borrowed, waits, may_end = threading.Event(), threading.Event(), threading.Event()

    def borrower() -> None:
        with one_at_a_time():
            borrowed.set()
            assert may_end.wait(PATIENCE)

    def third() -> None:
        with one_at_a_time(waits.set):
            order.append("the third")

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(turns, "LENT_SECONDS", 0.0)
        with one_at_a_time():
            with turn_lent():
                first = pool.submit(borrower)
                assert borrowed.wait(PATIENCE)
                last = pool.submit(third)
                assert waits.wait(PATIENCE)
                threading.Timer(0.2, may_end.set).start()
            order.append("this one")
        first.result(PATIENCE)
        last.result(PATIENCE)
    assert order == ["this one", "the third"]


def test_a_search_within_lent_time_is_not_disturbed() -> None:
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool, one_at_a_time(), turn_lent():
        patch.setattr(turns, "LENT_SECONDS", 0.0)
        with one_at_a_time() as waited:
            assert not waited
            entered = pool.submit(_entered)
            with pytest.raises(TimeoutError):
                entered.result(0.2)
        assert entered.result(PATIENCE)


def _entered() -> bool:
    with one_at_a_time():
        return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_forked_beside_a_search_does_not_wait_for_it() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def search() -> None:
        with one_at_a_time(lambda: None):
            begun.set()
            may_end.wait(PATIENCE)

    thread = threading.Thread(target=search)
    thread.start()
    assert begun.wait(PATIENCE)
    if (child := os.fork()) == 0:
        with one_at_a_time(lambda: os._exit(1)):
            os._exit(0)
    _, status = os.waitpid(child, 0)
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_forked_within_lent_time_leaves_its_search() -> None:
    """The search that the turn was lent to does not end there, nor does its own for other threads."""
    borrowed, may_end = threading.Event(), threading.Event()

    def other() -> None:
        with one_at_a_time():
            borrowed.set()
            may_end.wait(PATIENCE)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool, one_at_a_time(), ExitStack() as block:
        patch.setattr(turns, "LENT_SECONDS", 0.0)
        block.enter_context(turn_lent())
        pool.submit(other)
        assert borrowed.wait(PATIENCE)
        if (child := os.fork()) == 0:
            signal.alarm(10)  # ends it, should it wait
            thread = threading.Thread(target=_entered)
            thread.start()
            thread.join()
            block.close()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        may_end.set()
    assert os.waitstatus_to_exitcode(status) == 0
