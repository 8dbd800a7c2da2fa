"""Errors in a call of a hook name the plugin that did it, and what to do."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from dispatched_backends import (
    CALLED,
    HARDWARE,
    Backend,
    ExportOnly,
    Observer,
    call,
    opening,
    two_backends,
)
from optimum_core.errors import PluginError, SessionError, UnavailableError
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import PluginManager
from optimum_core.types import (
    TensorSpec,
)


@pytest.fixture
def plugins() -> PluginManager:
    return two_backends()


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
