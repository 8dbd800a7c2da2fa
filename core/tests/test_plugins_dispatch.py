"""Calls reach the one backend they are addressed to, wrappers see them all, and what goes wrong names who did it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
import pytest

from dispatched_backends import (
    HARDWARE,
    Backend,
    Observer,
    Scaled,
    X,
    call,
    exporting,
    opening,
    two_backends,
)
from optimum_core.artifact.structure import from_names
from optimum_core.errors import PluginError, UnavailableError
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import PluginManager, Status
from optimum_core.runtime.call_outputs import Answerer
from optimum_core.runtime.repeated_call import SessionFunctions, repeated
from optimum_core.types import (
    Hardware,
    Support,
)


@pytest.fixture
def plugins() -> PluginManager:
    return two_backends()


@pytest.mark.parametrize("backend", ["one", "two"])
@pytest.mark.parametrize("hook", ["export", "optimize", "quantize"])
def test_a_call_reaches_the_backend_it_is_addressed_to(plugins: PluginManager, hook: str, backend: str) -> None:
    assert call(plugins, hook, backend).files == (f"{backend}.{hook}",)


def test_sessions_run_on_the_backend_that_loaded_them(plugins: PluginManager) -> None:
    sessions = [plugins.load_session(opening(name)) for name in ("one", "two")]
    outputs = [plugins.binder(session)({"x": X})["y"] for session in sessions]
    np.testing.assert_array_equal(np.stack([np.asarray(y) for y in outputs]), [X * 2, X * 3])


def test_every_probe_answers_for_itself(plugins: PluginManager) -> None:
    assert plugins.supports(HARDWARE) == {name: Support(versions={name: "1"}) for name in ("one", "two")}


def test_wrappers_of_another_plugin_see_every_call(plugins: PluginManager) -> None:
    observer = Observer()
    plugins.register(observer, "audit")
    plugins.export(exporting("two"))
    run = plugins.binder(plugins.load_session(opening("one")))
    run({"x": X})
    run({"x": X})
    assert observer.seen == ["export two", "infer one", "infer one"]


def test_an_observer_is_no_backend(plugins: PluginManager) -> None:
    plugins.register(Observer(), "audit")
    assert plugins.names() == ("one", "two")
    assert set(plugins.supports(HARDWARE)) == {"one", "two"}
    info = plugins.infos()[0]
    assert (info.name, info.status, info.hooks, info.distribution) == ("audit", Status.READY, ("export", "infer"), "")
    with pytest.raises(UnavailableError, match=r"'audit' \(registered in this process\): does not export"):
        plugins.export(exporting("audit"))


def test_a_wrapper_may_change_a_result(plugins: PluginManager) -> None:
    class Negate:
        @hookimpl(hookwrapper=True)
        def infer(self) -> Generator[None, Any, None]:
            outcome = yield
            outcome.force_result({"y": -outcome.get_result()["y"]})

    plugins.register(Negate(), "negate")
    outputs = plugins.binder(Scaled(backend="one", factor=2.0))({"x": X})
    np.testing.assert_array_equal(np.asarray(outputs["y"]), X * -2)


def test_a_backend_that_also_wraps_sees_its_own_calls_only(plugins: PluginManager) -> None:
    class Both(Backend):
        calls = 0

        @hookimpl(wrapper=True, specname="infer")
        def watch(self) -> Generator[None, Any, Any]:
            self.calls += 1
            return (yield)

    both = Both("three")
    plugins.register(both, "three")
    call(plugins, "infer", "one")
    assert both.calls == 0
    call(plugins, "infer", "three")
    assert both.calls == 1


def test_a_bound_session_follows_observers_but_never_another_backend(plugins: PluginManager) -> None:
    plugins.unregister("two")  # so that "one" alone answers when the session is bound
    run = plugins.binder(Scaled(backend="one", factor=2.0))
    observer = Observer()
    plugins.register(observer, "audit")
    plugins.register(Backend("late", factor=9.0), "late")
    np.testing.assert_array_equal(np.asarray(run({"x": X})["y"]), X * 2)
    plugins.unregister("audit")
    run({"x": X})
    assert observer.seen == ["infer one"]
    plugins.unregister("one")
    with pytest.raises(UnavailableError, match="backend 'one': is not installed; installed backends: late"):
        run({"x": X})


def test_a_bound_session_outlives_a_failing_probe(plugins: PluginManager) -> None:
    class Moody(Backend):
        @hookimpl
        def probe(self, hardware: Hardware) -> Support:
            raise OSError("no luck today")

    plugins.register(Moody("moody", factor=5.0), "moody")
    run = plugins.binder(Scaled(backend="moody", factor=5.0))
    assert set(plugins.supports(HARDWARE)) == {"one", "two"}
    plugins.unregister("two")
    np.testing.assert_array_equal(np.asarray(run({"x": X})["y"]), X * 5)
    with pytest.raises(PluginError, match="its probe raised OSError: no luck today"):
        plugins.load_session(opening("moody"))


def test_a_bound_session_serves_threads_while_plugins_come_and_go(plugins: PluginManager) -> None:
    run = plugins.binder(Scaled(backend="one", factor=2.0))
    wrong: list[object] = []
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            y = np.asarray(run({"x": X})["y"])
            if not np.array_equal(y, X * 2):
                wrong.append(y)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        plugins.register(Observer(), "audit")
        plugins.unregister("audit")
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []


class Straight(Scaled):
    """A session with a function of its own beside its hook, which counts its calls and may give something else."""

    calls, more = 0, 0.0

    def direct(self, inputs: Mapping[str, Any]) -> list[Any]:
        self.calls += 1
        return [np.asarray(inputs["x"] * self.factor + self.more)]


def _repeated(plugins: PluginManager, session: Any) -> Callable[[Any], Any]:
    whole = plugins.binder(session)
    whole({"x": X})
    answerer = Answerer(from_names("", ("y",)), ("y",))
    answerer._find_own()
    seen = ["x", X.shape, X.dtype]
    found = repeated(seen, (), (), None, SessionFunctions(whole, plugins.direct(session)), answerer)
    return lambda x: found({"x": x})


def test_a_session_runs_by_its_own_function_while_nothing_wraps_its_hook(plugins: PluginManager) -> None:
    session = Straight(backend="one", factor=2.0)
    again = _repeated(plugins, session)
    for calls in (1, 2):
        np.testing.assert_array_equal(again(X)["y"], X * 2)
        assert session.calls == calls
    observer = Observer()
    plugins.register(observer, "audit")
    again(X)
    assert (len(observer.seen), session.calls) == (1, 2)
    plugins.unregister("audit")
    again(X)  # it binds the hook anew
    assert session.calls == 2
    again(X)
    assert session.calls == 3


@pytest.mark.parametrize("more", [1e-6, np.nan, np.zeros((2, 1, 1), np.float32)])
def test_a_function_of_its_own_that_gives_something_else_is_not_used(
    plugins: PluginManager, caplog: pytest.LogCaptureFixture, more: Any
) -> None:
    session = Straight(backend="one", factor=2.0)
    session.more = more
    again = _repeated(plugins, session)
    with caplog.at_level(logging.WARNING, "optimum_core"):  # however loud the process is
        for _ in range(3):
            np.testing.assert_array_equal(again(X)["y"], X * 2)
    assert session.calls == 1
    assert [record.getMessage()[:40] for record in caplog.records] == ["backend 'one': `direct` of a session gave"[:40]]


def test_a_function_of_its_own_may_give_nan_where_the_hook_does(plugins: PluginManager) -> None:
    session = Straight(backend="one", factor=np.nan)
    again = _repeated(plugins, session)
    for _ in range(3):
        assert np.isnan(again(X)["y"]).all()
    assert session.calls == 3


def test_no_function_of_its_own_replaces_a_wrapped_hook(plugins: PluginManager) -> None:
    assert plugins.direct(Scaled(backend="one", factor=2.0)) is None
    plugins.register(Observer(), "audit")
    assert plugins.direct(Straight(backend="one", factor=2.0)) is None
