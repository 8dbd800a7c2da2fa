"""Calls reach the one backend they are addressed to, wrappers see them all, and what goes wrong names who did it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import PluginError, SessionError, UnavailableError
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import PluginManager, Status
from optimum_core.types import (
    Array,
    Artifact,
    Cpu,
    ExportRequest,
    Hardware,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    Session,
    SessionRequest,
    Support,
    TensorSpec,
)

HARDWARE = Hardware(
    system="linux",
    system_version="6",
    cpu=Cpu(vendor="intel", model="x", architecture="x86_64", features=frozenset(), physical_cores=1, usable_cores=1),
    memory=1,
)
X = np.arange(3.0)


@dataclass
class Scaled:
    """A session that multiplies its input."""

    backend: str
    factor: float
    device: str = "cpu"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def close(self) -> None:
        self.factor = 0.0


class Source:
    name = "tiny"
    fingerprint = "0"
    format = None

    def module(self) -> Any:
        raise AssertionError("no test needs the weights")


class Backend:
    """A whole backend, working on numpy; `fault` is what its hooks do instead, where given."""

    def __init__(self, name: str, factor: float = 1.0, fault: Callable[[], Any] | None = None) -> None:
        self.name, self.factor, self.fault = name, factor, fault

    def _made(self, hook: str, path: Path) -> Any:
        if self.fault is not None:
            return self.fault()
        return Artifact(format="acme", path=path, files=(f"{self.name}.{hook}",), inputs=(), outputs=())

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        return Support(versions={self.name: "1"})

    @hookimpl
    def export(self, request: ExportRequest) -> Any:
        return self._made("export", request.output)

    @hookimpl
    def optimize(self, request: OptimizeRequest) -> Any:
        return self._made("optimize", request.output)

    @hookimpl
    def quantize(self, request: QuantizeRequest) -> Any:
        return self._made("quantize", request.output)

    @hookimpl
    def load_session(self, request: SessionRequest) -> Any:
        return self.fault() if self.fault else Scaled(backend=self.name, factor=self.factor)

    @hookimpl
    def infer(self, session: Session, inputs: Mapping[str, Array]) -> Any:
        assert isinstance(session, Scaled)
        assert session.backend == self.name
        if self.fault is not None:
            return self.fault()
        return {"y": np.asarray(inputs["x"]) * session.factor}


@dataclass(eq=False)
class Observer:
    """Notes every call of every backend."""

    seen: list[str] = field(default_factory=list)

    @hookimpl(wrapper=True)
    def export(self, request: ExportRequest) -> Generator[None, Any, Any]:
        self.seen.append(f"export {request.backend}")
        return (yield)

    @hookimpl(wrapper=True)
    def infer(self, session: Session) -> Generator[None, Any, Any]:
        self.seen.append(f"infer {session.backend}")
        return (yield)


class ExportOnly:
    @hookimpl
    def export(self, request: ExportRequest) -> None:
        return None


@pytest.fixture
def plugins() -> PluginManager:
    found = PluginManager([])
    found.register(Backend("one", factor=2.0), "one")
    found.register(Backend("two", factor=3.0), "two")
    return found


ARTIFACT = Artifact(format="acme", path=Path("in"), files=("m",), inputs=(), outputs=())


def exporting(backend: str) -> ExportRequest:
    return ExportRequest(
        backend=backend,
        source=Source(),
        task="t",
        format="acme",
        precision="fp32",
        samples={},
        inputs=(),
        outputs=(),
        output=Path("out"),
    )


def optimizing(backend: str) -> OptimizeRequest:
    return OptimizeRequest(
        backend=backend, artifact=ARTIFACT, device="cpu", precision="fp32", hardware=HARDWARE, output=Path("out")
    )


def quantizing(backend: str) -> QuantizeRequest:
    return QuantizeRequest(
        backend=backend, artifact=ARTIFACT, config=QuantizeConfig(), hardware=HARDWARE, output=Path("out")
    )


def opening(backend: str) -> SessionRequest:
    return SessionRequest(backend=backend, artifact=ARTIFACT, device="cpu", hardware=HARDWARE)


def call(plugins: PluginManager, hook: str, backend: str) -> Any:
    """One call of one hook, through the manager's own methods."""
    if hook == "infer":
        return plugins.binder(Scaled(backend=backend, factor=1.0))({"x": X})
    requests: dict[str, Callable[[str], Any]] = {
        "export": exporting,
        "optimize": optimizing,
        "quantize": quantizing,
        "load_session": opening,
    }
    return getattr(plugins, hook)(requests[hook](backend))


CALLED = ["export", "optimize", "quantize", "load_session", "infer"]


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


@pytest.mark.parametrize("hook", CALLED)
def test_a_foreign_error_is_wrapped_with_who_and_where(plugins: PluginManager, hook: str) -> None:
    cause = ZeroDivisionError("by zero")

    def fail() -> Any:
        raise cause

    plugins.register(Backend("bad", fault=fail), "bad")
    plugins.register(Observer(), "audit")
    with pytest.raises(PluginError) as raised:
        call(plugins, hook, "bad")
    assert raised.value.__cause__ is cause
    assert raised.value.who == "backend 'bad' (registered in this process)"
    assert raised.value.why == f"its hook '{hook}' raised ZeroDivisionError: by zero"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("hook", CALLED)
def test_a_wrapper_that_raises_is_blamed_itself(plugins: PluginManager, hook: str, after: bool) -> None:
    def wrapper(**arguments: Any) -> Any:
        if not after:
            raise KeyError("before")
        yield
        raise KeyError("after")

    taken = "session, inputs" if hook == "infer" else "request"
    function: Any = eval(f"lambda {taken}: (yield from inner())", {"inner": wrapper})
    plugins.register(Backend("good"), "good")
    plugins.register(type("Audit", (), {hook: staticmethod(hookimpl(wrapper=True)(function))})(), "audit")
    with pytest.raises(PluginError) as raised:
        call(plugins, hook, "good")
    assert raised.value.who == "backend 'audit' (registered in this process)"
    when = "after" if after else "before"
    assert raised.value.why == f"its wrapper of '{hook}', around backend 'good', raised KeyError: '{when}'"
    assert "OPTIMUM_DISABLED_BACKENDS=audit" in raised.value.remedy


@pytest.mark.parametrize("hook", CALLED)
def test_errors_of_the_family_and_interrupts_pass_unchanged(plugins: PluginManager, hook: str) -> None:
    errors = [SessionError("session", "the batch is too large", "use a smaller one"), KeyboardInterrupt()]
    plugins.register(Backend("bad", fault=lambda: (_ for _ in ()).throw(errors[0])), "bad")
    for error in tuple(errors):
        with pytest.raises(type(error)) as raised:
            call(plugins, hook, "bad")
        assert raised.value is errors.pop(0) is error


@pytest.mark.parametrize("hook", CALLED)
def test_an_exit_in_a_hook_does_not_end_the_program(plugins: PluginManager, hook: str) -> None:
    plugins.register(Backend("bad", fault=lambda: (_ for _ in ()).throw(SystemExit(2))), "bad")
    with pytest.raises(PluginError, match="raised SystemExit: 2"):
        call(plugins, hook, "bad")


@pytest.mark.parametrize("hook", CALLED)
def test_returning_nothing_is_an_error(plugins: PluginManager, hook: str) -> None:
    plugins.register(Backend("bad", fault=lambda: None), "bad")
    with pytest.raises(PluginError, match=f"'bad'.*: its hook '{hook}' returned nothing where [A-Z][a-z]+ is expected"):
        call(plugins, hook, "bad")


@pytest.mark.parametrize("hook", CALLED[:-1])
def test_returning_something_else_is_an_error(plugins: PluginManager, hook: str) -> None:
    plugins.register(Backend("bad", fault=lambda: {"path": "x"}), "bad")
    expected = "Session" if hook == "load_session" else "Artifact"
    with pytest.raises(
        PluginError, match=rf"'{hook}' returned {{'path': 'x'}} \(a dict\) where {expected} is expected"
    ):
        call(plugins, hook, "bad")


def test_a_session_whose_properties_fail_is_blamed_on_its_backend(plugins: PluginManager) -> None:
    class Half:
        backend = device = "bad"
        outputs = ()

        @property
        def inputs(self) -> tuple[TensorSpec, ...]:
            raise ValueError("not ready")

        def close(self) -> None: ...

    plugins.register(Backend("bad", fault=Half), "bad")
    try:
        session = plugins.load_session(opening("bad"))
    except PluginError as error:  # Python 3.11 looks at the values, later ones only at the names
        assert "ValueError: not ready" in error.why
    else:
        assert isinstance(session, Half)


@pytest.mark.parametrize("hook", CALLED[1:])
def test_a_backend_without_the_hook_says_so_and_who_has_it(plugins: PluginManager, hook: str) -> None:
    plugins.register(ExportOnly(), "exporter")
    with pytest.raises(UnavailableError) as raised:
        call(plugins, hook, "exporter")
    assert f"(it has no '{hook}' hook)" in raised.value.why
    assert raised.value.remedy == "use a backend that does: one, two"
    with pytest.raises(UnavailableError, match="has no 'probe' hook"):
        plugins.support("exporter", HARDWARE)


@pytest.mark.parametrize("hook", CALLED)
def test_an_unknown_backend_is_unavailable(plugins: PluginManager, hook: str) -> None:
    with pytest.raises(UnavailableError, match="installed backends: one, two"):
        call(plugins, hook, "three")


@pytest.mark.parametrize("spoiled", [None, [], 7])
def test_a_probe_whose_answer_is_spoiled_on_the_way_is_an_error(plugins: PluginManager, spoiled: object) -> None:
    class Spoiler:
        @hookimpl(wrapper=True)
        def probe(self) -> Generator[None, Any, Any]:
            yield
            return spoiled

    plugins.register(Spoiler(), "spoiler")
    with pytest.raises(PluginError, match=r"'one'.* its hook 'probe' returned .* where Support is expected"):
        plugins.support("one", HARDWARE)
