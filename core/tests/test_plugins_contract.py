"""Plugins made for an older or a newer contract: each is taken, or set aside with the remedy, before it does harm."""

from __future__ import annotations

import pytest

from optimum_core import __version__
from optimum_core.errors import PluginError
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import PluginManager, Status
from optimum_core.plugins.compatibility import mismatch
from optimum_core.plugins.discovery import Record
from plugin_site import GOOD, HARDWARE, IMPL, Site, by_name

HERE = ".".join(__version__.split(".")[:2])
_HEAD = "from optimum_core.hookspecs import hookimpl\nfrom optimum_core.types import Offer, Support\n"


def add(site: Site, source: str, *requirements: str) -> None:
    """Install a plugin named acme with these dependencies."""
    site.add("acme", source)
    with next(site.path.glob("acme_acme-*.dist-info")).joinpath("METADATA").open("a", encoding="utf-8") as file:
        file.writelines(f"Requires-Dist: {text}\n" for text in requirements)


def refused(site: Site) -> tuple[str, str]:
    info = by_name(site.manager())["acme"]
    assert info.status is Status.BROKEN
    why, _, remedy = info.error.partition("\n  What to do: ")
    return why, remedy


@pytest.mark.parametrize(
    "requirements",
    [
        (f"optimum-core>={HERE}",),
        (f"Optimum_Core (>={HERE},<9)",),
        ("optimum-core",),
        ("numpy>=99",),
        ("optimum-core>=9; extra == 'later'", "optimum-core-extras>=9"),
        (),
    ],
)
def test_a_plugin_made_for_this_contract_is_taken(site: Site, requirements: tuple[str, ...]) -> None:
    add(site, GOOD, *requirements)
    assert by_name(site.manager())["acme"].status is Status.READY


def test_one_made_for_a_newer_contract_asks_for_a_newer_core(site: Site) -> None:
    add(site, "raise SystemError('it is imported')", "optimum-core<9.3,>=9.2")
    why, remedy = refused(site)
    assert f"it was made for optimum-core>=9.2,<9.3, and this is {__version__}" in why
    assert remedy == "upgrade optimum-core: pip install 'optimum-core>=9.2,<9.3'"


def test_one_made_for_an_older_contract_is_to_be_upgraded(site: Site) -> None:
    add(site, GOOD, "optimum-core>=0.0.1,<0.0.2")
    _, remedy = refused(site)
    assert remedy == "upgrade acme-acme: pip install -U acme-acme; or pip install 'optimum-core>=0.0.1,<0.0.2'"


def test_one_of_0_1_under_0_2_and_the_reverse(site: Site) -> None:
    add(site, GOOD, "optimum-core>=0.1,<0.2")
    record = Record(name="acme", distribution="acme-acme", entry_point=site.entry_points()[0])
    assert mismatch(record, "0.1.7") is None and mismatch(record, "0.2.0.dev1") is not None
    newer, older = mismatch(record, "0.2.0"), mismatch(record, "0.0.9")
    assert newer is not None and newer.remedy.startswith("upgrade acme-acme")
    assert older is not None and older.remedy.startswith("upgrade optimum-core")


@pytest.mark.parametrize(
    "source",
    [
        "from optimum_core.types import ShardedRequest",
        "from optimum_core.backend.sharding import shard",
        IMPL + "def shard(request): ...",
        _HEAD + "@hookimpl\ndef probe(hardware):\n    return Support(offers=(Offer(device='cpu', shards=2),))",
    ],
    ids=["a type", "a module", "a hook", "a field"],
)
def test_what_only_a_newer_core_has_asks_for_one(site: Site, source: str) -> None:
    add(site, source)
    plugins = site.manager()
    plugins.supports(HARDWARE)
    info = by_name(plugins)["acme"]
    assert info.status is Status.BROKEN and "upgrade optimum-core" in info.error, info


def test_an_error_of_its_own_asks_for_no_other_core(site: Site) -> None:
    add(site, IMPL + "def probe(hardware):\n    return dict(hardware, nothing=1)")
    plugins = site.manager()
    with pytest.raises(PluginError) as raised:
        plugins.support("acme", HARDWARE)
    assert "upgrade optimum-core" not in raised.value.remedy


def test_a_wrapper_that_disturbs_every_probe_is_set_aside(site: Site) -> None:
    class Nosy:
        @hookimpl(wrapper=True)
        def probe(self, hardware: object) -> object:
            if hardware is not None:
                raise ValueError("nosy")
            yield

    site.add("acme", GOOD)
    plugins: PluginManager = site.manager()
    plugins.register(Nosy(), "nosy")
    assert list(plugins.supports(HARDWARE)) == ["acme"]
    states = by_name(plugins)
    assert states["acme"].status is Status.READY and states["nosy"].status is Status.BROKEN
    assert "its wrapper of 'probe' raised ValueError: nosy" in states["nosy"].error
