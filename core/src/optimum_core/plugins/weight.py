"""The weight of a plugin's entry module: the compiled packages that come with importing it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader

from optimum_core.plugins.discovery import PluginInfo, Record


@contextmanager
def weighed(record: Record) -> Iterator[None]:
    """Record the compiled packages that are imported in the meantime."""
    before = set(sys.modules)
    yield
    record.imports = tuple(sorted(compiled_packages(set(sys.modules) - before)))


def heavy_notes(infos: Iterable[PluginInfo]) -> tuple[str, ...]:
    """Return a note for each plugin whose entry module imports compiled packages."""
    return tuple(
        f"backend {info.name!r} imports {', '.join(info.imports)} when it is loaded, which slows every start: "
        f"report it to the authors of {info.distribution or info.name}"
        for info in infos
        if info.imports
    )


def compiled_packages(modules: Iterable[str]) -> frozenset[str]:
    """Return the packages among imported modules that brought compiled code: runtimes, numpy, and what imports them.

    Those of the standard library are left out.
    """
    found = {module.partition(".")[0] for module in modules if _is_compiled(module)}
    return frozenset(found - sys.stdlib_module_names)


def _is_compiled(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return isinstance(getattr(spec, "loader", None), ExtensionFileLoader)
