"""Installed packages and their versions, read from the import system and from metadata without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable
from pathlib import Path


def present(package: str) -> bool:
    """Whether a package can be imported, as far as this is known without importing it.

    Pass top-level packages: looking for "a.b" imports "a".

    >>> present("json"), present("no_such_package")
    (True, False)
    """
    return importlib.util.find_spec(package) is not None


def missing(packages: Iterable[str]) -> list[str]:
    """Return those of `packages` that are not installed.

    >>> missing(["json", "no_such_package"])
    ['no_such_package']
    """
    return [name for name in packages if not present(name)]


def package_folder(package: str) -> Path | None:
    """Return the directory of a package, for reading its files without importing it; None where there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed, by their names in pip.

    >>> list(versions(["optimum-core", "no-such-distribution"]))
    ['optimum-core']
    """
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
