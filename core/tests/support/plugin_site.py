"""A folder of installed distributions, each of which brings a backend."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

from importlib_metadata import EntryPoint, distributions

from optimum_core.plugins import GROUP, PluginInfo, PluginManager
from optimum_core.types import Cpu, Hardware

HARDWARE = Hardware(
    system="linux",
    system_version="6",
    cpu=Cpu(vendor="intel", model="x", architecture="x86_64", features=frozenset(), physical_cores=1, usable_cores=1),
    memory=1,
)
GOOD = """
from optimum_core.hookspecs import hookimpl
from optimum_core.types import Support

@hookimpl
def probe(hardware):
    return Support(versions={"me": __name__})
"""
IMPL = "from optimum_core.hookspecs import hookimpl\n@hookimpl\n"
_serial = itertools.count()


class Site:
    """A folder of installed distributions, each with one module and one entry point."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, backend: str, source: str | None, *, dist: str = "", version: str = "1.2", attr: str = "") -> str:
        """Install a distribution; returns its module's name. `source` None: the module is missing."""
        dist = dist or f"acme-{backend}"
        module = f"fake_plugin_{next(_serial)}"
        if source is not None:
            (self.path / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = self.path / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        points = f"[{GROUP}]\n{backend} = {module}{':' + attr if attr else ''}\n"
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        return module

    def entry_points(self) -> list[EntryPoint]:
        found = distributions(path=[str(self.path)])
        return [point for dist in found for point in dist.entry_points.select(group=GROUP)]

    def manager(self) -> PluginManager:
        return PluginManager(self.entry_points())


def by_name(plugins: PluginManager) -> dict[str, PluginInfo]:
    return {info.name: info for info in plugins.infos()}
