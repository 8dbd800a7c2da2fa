"""The modules of optimum-core that a plugin may import, and those imports of an installed plugin that are of others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import optimum_core

#: Those that docs/writing-a-backend.md lists. All others may change in any release.
PUBLIC = frozenset({"backend", "compat", "errors", "hookspecs", "testing", "types"})
_CORE = optimum_core.__name__


def private_imports(module: str) -> list[str]:
    """Return the imports of modules of optimum-core that are not public, as "file:line name", in a plugin's package.

    Args:
        module: the plugin's entry module; its whole top-level package is read. Core's own backends are exempt.
    """
    package = module.partition(".")[0]
    spec = find_spec(package) if package != _CORE else None
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if spec is not None and not folders and spec.origin is not None:
        files = [Path(spec.origin)]
    return [f"{file.name}:{line} {name}" for file in files for line, name in _imported(file) if _is_private(name)]


def _imported(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of everything that a file imports, also within functions."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, item.name) for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.lineno, f"{node.module}.{item.name}") for item in node.names)


def _is_private(name: str) -> bool:
    """Whether a dotted name is in a module of optimum-core that is not public.

    >>> _is_private("optimum_core.plan.parse_target"), _is_private("optimum_core.backend._sessions.closed")
    (True, True)
    >>> _is_private("optimum_core.accelerate"), _is_private("optimum_core.types.Offer"), _is_private("numpy.array")
    (False, False, False)
    """
    first, *parts = name.split(".")
    if first != _CORE or not parts or parts[0] in optimum_core.__all__:
        return False
    hidden = any(part.startswith("_") and not part.startswith("__") for part in parts)
    return hidden or (parts[0] not in PUBLIC and not parts[0].startswith("__"))
