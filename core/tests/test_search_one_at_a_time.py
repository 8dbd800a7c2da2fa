"""Calls of `accelerate` in several threads: exporters of torch keep global state, so one search waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from optimum_core import accelerate
from optimum_core.search.one_at_a_time import one_at_a_time
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
