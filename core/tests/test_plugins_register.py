"""Plugins of this process: names are unique, and a refused one leaves no trace."""

from __future__ import annotations

import pytest

from optimum_core.errors import OptimumError, PluginError, UnavailableError
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import DISABLED_ENV, PluginManager, Status
from optimum_core.types import Cpu, Hardware, QuantizeRequest, Support

HARDWARE = Hardware(
    system="linux",
    system_version="6",
    cpu=Cpu(vendor="intel", model="x", architecture="x86_64", features=frozenset(), physical_cores=1, usable_cores=1),
    memory=1,
)


class Backend:
    def __init__(self, name: str = "") -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Backend {self.name}"

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        return Support(versions={self.name: "1"})


class WrongSignature(Backend):
    @hookimpl
    def optimize(self, _demand: object) -> None:
        return None

    @hookimpl
    def infer(self) -> None:
        return None


class UnknownHook(Backend):
    @hookimpl
    def quantise(self, request: QuantizeRequest) -> None:
        return None


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> PluginManager:
    monkeypatch.delenv(DISABLED_ENV, raising=False)
    found = PluginManager([])
    found.register(Backend("one"), "one")
    found.register(Backend("two"), "two")
    return found


def test_a_taken_name_is_an_error_that_names_both(plugins: PluginManager) -> None:
    with pytest.raises(PluginError, match=r"taken by backend 'one' \(registered in this process\), so Backend odd "):
        plugins.register(Backend("odd"), "one")
    assert plugins.support("one", HARDWARE) == Support(versions={"one": "1"})


REFUSED = [None, Backend, object(), WrongSignature(), UnknownHook()]


@pytest.mark.parametrize("plugin", REFUSED, ids=["none", "class", "no hooks", "wrong signature", "unknown hook"])
def test_a_refused_registration_leaves_no_trace(plugins: PluginManager, plugin: object) -> None:
    before = plugins.infos()
    with pytest.raises(OptimumError, match="'new'"):
        plugins.register(plugin, "new")
    assert plugins.infos() == before
    assert set(plugins.supports(HARDWARE)) == {"one", "two"}
    plugins.register(Backend("new"), "new")
    assert plugins.names() == ("new", "one", "two")


def test_unregister_forgets_and_frees_the_name(plugins: PluginManager) -> None:
    plugins.support("one", HARDWARE)
    plugins.unregister("one")
    with pytest.raises(UnavailableError):
        plugins.unregister("one")
    plugins.register(Backend("new one"), "one")
    assert plugins.support("one", HARDWARE) == Support(versions={"new one": "1"})


def test_the_environment_disables_registered_backends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DISABLED_ENV, "one")
    plugins = PluginManager([])
    plugins.register(Backend("one"), "one")
    assert [(info.name, info.status) for info in plugins.infos()] == [("one", Status.DISABLED)]
    with pytest.raises(PluginError, match="is disabled"):
        plugins.support("one", HARDWARE)
