"""Discovery over real distributions, written into a folder: which are found, by which name, and in which order."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importlib_metadata import EntryPoint

from optimum_core.errors import PluginError, UnavailableError
from optimum_core.plugins import DISABLED_ENV, GROUP, PluginManager, Status, manager
from optimum_core.types import Hardware, Support
from plugin_site import GOOD, HARDWARE, IMPL, Site, by_name


def test_a_ready_plugin_tells_its_hooks(site: Site) -> None:
    site.add("good", GOOD + "@hookimpl(wrapper=True)\ndef infer(session, inputs):\n    return (yield)\n")
    plugins = site.manager()
    (info,) = plugins.infos()
    assert (info.status, info.error, info.hooks) == (Status.READY, "", ("probe", "infer"))
    assert plugins.implements("good", "probe")
    assert not plugins.implements("good", "infer")
    assert not plugins.implements("good", "no such hook")


def test_an_object_may_be_a_plugin(site: Site) -> None:
    source = """
    from optimum_core.hookspecs import hookimpl
    from optimum_core.types import Support

    class Backend:
        @hookimpl
        def probe(self, hardware):
            return Support(versions={"memory": str(hardware.memory)})

    backend = Backend()
    """
    site.add("object", source, attr="backend")
    assert site.manager().support("object", HARDWARE) == Support(versions={"memory": "1"})


def test_one_module_under_two_names_is_refused_the_second_time(site: Site) -> None:
    module = site.add("a", GOOD)
    plugins = PluginManager([*site.entry_points(), EntryPoint(name="b", value=module, group=GROUP)])
    assert plugins.names() == ("a",)
    error = by_name(plugins)["b"].error
    assert f"backend 'b' ({module})" in error
    assert "already registered as 'a'" in error


def test_a_probe_is_asked_once_per_hardware(site: Site) -> None:
    module = site.add("a", "calls = []\n" + GOOD.replace("    return", "    calls.append(hardware)\n    return"))
    plugins = site.manager()
    first = plugins.support("a", HARDWARE)
    assert plugins.supports(HARDWARE)["a"] is first
    assert len(sys.modules[module].calls) == 1
    other = Hardware(system="linux", system_version="6", cpu=HARDWARE.cpu, memory=2)
    plugins.support("a", other)
    assert sys.modules[module].calls == [HARDWARE, other]


def test_two_distributions_claiming_a_name_are_both_named(site: Site) -> None:
    modules = [site.add("x", GOOD, dist="acme-one"), site.add("x", GOOD, dist="acme-two", version="3.0")]
    site.add("y", GOOD)
    plugins = site.manager()
    assert plugins.names() == ("y",)
    twins = [info for info in plugins.infos() if info.name == "x"]
    assert [(info.distribution, info.status) for info in twins] == [
        ("acme-one", Status.DUPLICATE),
        ("acme-two", Status.DUPLICATE),
    ]
    with pytest.raises(
        PluginError, match=r"claimed by acme-one 1\.2 and acme-two 3\.0\n.*uninstall acme-one or acme-tw"
    ):
        plugins.support("x", HARDWARE)
    assert not set(modules) & set(sys.modules)


def test_one_distribution_listed_twice_is_one_plugin(site: Site) -> None:
    site.add("x", GOOD, dist="acme-one")
    points = site.entry_points()
    spelled = site.path / "other" / "Acme.One-1.2.dist-info"
    spelled.mkdir(parents=True)
    (spelled / "METADATA").write_text("Metadata-Version: 2.1\nName: Acme.One\nVersion: 1.2\n", encoding="utf-8")
    (spelled / "entry_points.txt").write_text(f"[{GROUP}]\nx = {points[0].value}\n", encoding="utf-8")
    again = Site(site.path / "other").entry_points()
    plugins = PluginManager([*points, *points, *again])
    assert [(info.name, info.status) for info in plugins.infos()] == [("x", Status.READY)]


def test_one_distribution_that_names_two_places_is_a_duplicate(site: Site) -> None:
    module = site.add("x", GOOD)
    old = Site(site.path / "old")
    old.path.mkdir()
    other = old.add("x", GOOD)
    plugins = PluginManager([*site.entry_points(), *old.entry_points()])
    (error, _) = (info.error for info in plugins.infos())
    assert f"acme-x 1.2 [{module}]" in error
    assert f"acme-x 1.2 [{other}]" in error


def test_a_disabled_backend_is_never_imported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [site.add("a", GOOD), site.add("b", GOOD, dist="one"), site.add("b", GOOD, dist="two")]
    site.add("c", GOOD)
    monkeypatch.setenv(DISABLED_ENV, " a, b,,unheard-of")
    plugins = site.manager()
    assert [(info.name, info.status.value) for info in plugins.infos()] == [
        ("a", "disabled"),
        ("b", "disabled"),
        ("b", "disabled"),
        ("c", "ready"),
    ]
    assert not set(modules) & set(sys.modules)
    with pytest.raises(PluginError, match=rf"backend 'a' \(acme-a 1\.2\): is disabled by {DISABLED_ENV}"):
        plugins.support("a", HARDWARE)


def test_an_unknown_backend_tells_what_is_installed_and_what_to_install(site: Site) -> None:
    site.add("openvino", GOOD)
    site.add("other", "raise OSError")
    with pytest.raises(UnavailableError) as raised:
        site.manager().support("openvin", HARDWARE)
    assert str(raised.value) == (
        "backend 'openvin': is not installed; installed backends: openvino, other (broken)\n"
        "  What to do: did you mean 'openvino'?"
    )
    with pytest.raises(UnavailableError, match="installed backends: none") as raised:
        PluginManager([]).support("acme", HARDWARE)
    assert "pip install" not in raised.value.remedy


def test_nothing_is_imported_before_the_first_question(site: Site) -> None:
    module = site.add("a", GOOD)
    plugins = site.manager()
    plugins.register(type("Observer", (), {"probe": _probe_wrapper()})(), "observer")
    assert module not in sys.modules
    plugins.names()
    assert module in sys.modules


def test_every_thread_waits_until_all_plugins_are_there(site: Site) -> None:
    site.add("a", "import time\ntime.sleep(0.05)\n" + GOOD)
    site.add("z", GOOD)
    plugins = site.manager()
    start = threading.Barrier(8)
    seen: list[tuple[str, ...]] = []

    def ask() -> None:
        start.wait()
        seen.append(plugins.names())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [("a", "z")] * 8
    assert [info.error for info in plugins.infos()] == ["", ""]


def test_the_scan_of_everything_installed_finds_a_new_distribution(site: Site) -> None:
    site.add("freshly-installed", GOOD)
    assert by_name(PluginManager())["freshly-installed"].distribution == "acme-freshly-installed"


def test_a_distribution_without_metadata_still_works(site: Site) -> None:
    site.add("bare", GOOD)
    (site.path / "acme_bare-1.2.dist-info" / "METADATA").unlink()
    assert site.manager().names() == ("bare",)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_order_of_entry_points_changes_nothing(many: list[EntryPoint], data: st.DataObject) -> None:
    expected = PluginManager(many).infos()
    assert {info.status for info in expected} == {Status.READY, Status.BROKEN, Status.DUPLICATE}
    assert PluginManager(data.draw(st.permutations(many))).infos() == expected


@pytest.fixture
def many(site: Site) -> list[EntryPoint]:
    for name in ("b", "a", "c"):
        site.add(name, GOOD)
    twin = site.add("d", GOOD, dist="acme-one")
    site.add("d", GOOD, dist="acme-two")
    site.add("e", IMPL + "def export(demand): ...")
    site.add("f", None)
    stale = Site(site.path / "stale")
    stale.path.mkdir()
    stale.add("d", None, dist="acme-one", version="0.9")
    points = [*site.entry_points(), *stale.entry_points()]
    shared = next(point.value for point in points if point.name == "a")
    same = EntryPoint(name="z", value=shared, group=GROUP)
    return [*points, points[0], same, EntryPoint(name="d", value=twin, group=GROUP)]


def test_listing_what_is_really_installed_imports_nothing_heavy() -> None:
    script = """
    import sys
    from optimum_core.plugins import manager
    names = {info.name for info in manager().infos()}
    heavy = {"numpy", "torch", "transformers", "onnx", "onnxruntime"} & set(sys.modules)
    assert not heavy, heavy
    assert {"torch", "onnx"} <= names, names
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_there_is_one_manager() -> None:
    assert manager() is manager()


def _probe_wrapper() -> Callable[..., object]:
    from optimum_core.hookspecs import hookimpl

    @hookimpl(wrapper=True)
    def probe(self: object, hardware: Hardware) -> object:
        return (yield)

    return probe
