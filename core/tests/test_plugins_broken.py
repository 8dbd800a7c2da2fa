"""Broken plugins, as real distributions in a folder: every way to be broken, and how the others live on."""

from __future__ import annotations

import sys

import pytest

from optimum_core.errors import PluginError
from optimum_core.plugins import STRICT_ENV, PluginManager, Status
from plugin_site import GOOD, HARDWARE, IMPL, Site, by_name

BROKEN = {
    "missing module": (None, "", "ModuleNotFoundError: No module named"),
    "missing dependency": ("import surely_not_installed", "", "No module named 'surely_not_installed'"),
    "syntax": ("def probe(:", "", "SyntaxError"),
    "raises": ("raise RuntimeError('two\\nlines')", "", "RuntimeError: two; lines"),
    "exits": ("raise SystemExit(3)", "", "SystemExit: 3"),
    "base exception": ("class Panic(BaseException): ...\nraise Panic('rust')", "", "Panic: rust"),
    "attribute": ("", "backend", "has no attribute 'backend'"),
    "class": (IMPL + "def probe(hardware): ...\nclass Backend: ...", "Backend", "is the class Backend"),
    "none": ("backend = None", "backend", "is None"),
    "no hooks": ("def probe(hardware): ...", "", "implements no hook"),
    "signature": (IMPL + "def export(demand): ...", "", "Argument(s) {'demand'}"),
    "default": (IMPL + "def export(request=None): ...", "", "argument 'request' of its hook 'export' has a default"),
    "unknown hook": (IMPL + "def quantise(request): ...", "", "did you mean 'quantize'?"),
    "unlike any hook": (IMPL + "def zzz(request): ...", "", "the hooks are probe, export, optimize"),
    "no generator": (
        "from optimum_core.hookspecs import hookimpl\n@hookimpl(wrapper=True)\ndef infer(session, inputs): ...",
        "",
        "not a generator",
    ),
    "no hash": ("class Odd:\n    __hash__ = None\nbackend = Odd()", "backend", "is not hashable"),
    "probe raises": (IMPL + "def probe(hardware): raise OSError('disk')", "", "its probe raised OSError: disk"),
    "probe exits": (IMPL + "def probe(hardware): raise SystemExit(1)", "", "its probe raised SystemExit: 1"),
    "probe returns nothing": (IMPL + "def probe(hardware): return None", "", "returned nothing where Support"),
    "probe returns garbage": (IMPL + "def probe(hardware): return 42", "", "returned 42 (a int) where Support"),
    "two probes": (
        GOOD + "\n@hookimpl(specname='probe')\ndef again(hardware):\n    return Support()",
        "",
        "(a list) where Support",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_kept_shown_and_hurts_nobody(site: Site, kind: str) -> None:
    source, attr, text = BROKEN[kind]
    site.add("bad", source, attr=attr)
    site.add("good", GOOD)
    plugins = site.manager()

    assert set(plugins.supports(HARDWARE)) == {"good"}
    assert plugins.names() == ("good",)
    info = by_name(plugins)["bad"]
    assert (info.status, info.distribution, info.version) == (Status.BROKEN, "acme-bad", "1.2")
    assert "backend 'bad' (acme-bad 1.2)" in info.error
    assert text in info.error
    assert "What to do: " in info.error
    with pytest.raises(PluginError) as raised:
        plugins.support("bad", HARDWARE)
    assert str(raised.value) == info.error
    assert not plugins.implements("bad", "export")


@pytest.mark.parametrize("kind", ["exits", "missing dependency", "raises"])
def test_the_error_keeps_its_cause(site: Site, kind: str) -> None:
    site.add("bad", BROKEN[kind][0])
    with pytest.raises(PluginError) as raised:
        site.manager().support("bad", HARDWARE)
    assert isinstance(raised.value.__cause__, (SystemExit, ModuleNotFoundError, RuntimeError))


@pytest.mark.parametrize("kind", ["missing dependency", "raises", "probe raises"])
def test_the_log_has_the_traceback(site: Site, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    site.add("bad", BROKEN[kind][0])
    with caplog.at_level("DEBUG", logger="optimum_core"):
        site.manager().supports(HARDWARE)
    (record,) = [item for item in caplog.records if item.exc_info]
    assert "is set aside" in record.message
    assert record.exc_info is not None and isinstance(record.exc_info[1], OSError | ImportError | RuntimeError)


def test_an_interrupt_during_import_passes_and_loading_goes_on_later(site: Site) -> None:
    module = site.add("a", "raise KeyboardInterrupt")
    plugins = site.manager()
    with pytest.raises(KeyboardInterrupt):
        plugins.infos()
    (site.path / f"{module}.py").write_text(GOOD + "# of another size than before", encoding="utf-8")
    assert plugins.names() == ("a",)


def test_an_interrupt_during_a_probe_passes(site: Site) -> None:
    site.add("a", IMPL + "def probe(hardware): raise KeyboardInterrupt")
    plugins = site.manager()
    with pytest.raises(KeyboardInterrupt):
        plugins.supports(HARDWARE)
    assert plugins.names() == ("a",)


@pytest.mark.parametrize("kind", ["syntax", "signature", "probe raises"])
def test_strict_raises_for_a_broken_plugin_every_time(site: Site, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    site.add("bad", BROKEN[kind][0])
    site.add("good", GOOD)
    monkeypatch.setenv(STRICT_ENV, "1")
    plugins = site.manager()
    for _ in range(2):
        with pytest.raises(PluginError, match="backend 'bad'"):
            plugins.supports(HARDWARE)
    monkeypatch.setenv(STRICT_ENV, "0")
    assert plugins.names() == ("good",)


def test_a_plugin_that_asks_for_backends_while_imported_is_broken(site: Site) -> None:
    source = "import sys\nsys.modules['the_test_manager'].names()\n"
    site.add("nosy", source)
    site.add("open", GOOD)
    plugins = site.manager()
    sys.modules["the_test_manager"] = plugins  # type: ignore[assignment]
    try:
        assert plugins.names() == ("open",)
    finally:
        del sys.modules["the_test_manager"]
    assert "while it is being imported" in by_name(plugins)["nosy"].error


@pytest.mark.parametrize(("content", "shown"), [(b"[optimum.backends]\nno equals sign\n", True), (b"[x]\ny\n", False)])
def test_unreadable_entry_points_hide_no_other_backend(site: Site, content: bytes, shown: bool) -> None:
    site.add("freshly-installed", GOOD)
    site.add("damaged", GOOD, dist="acme-damaged")
    (site.path / "acme_damaged-1.2.dist-info" / "entry_points.txt").write_bytes(content)
    infos = by_name(PluginManager())
    assert infos["freshly-installed"].status is Status.READY
    assert ("acme-damaged" in infos) is shown
    if shown:
        assert "(acme-damaged 1.2): its entry points cannot be read" in infos["acme-damaged"].error
