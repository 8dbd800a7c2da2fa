"""Artifacts and other files, and a folder, that all workers of a run of tests share."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

if TYPE_CHECKING:
    import pytest

Made = TypeVar("Made")


def shared(factory: pytest.TempPathFactory, name: str, write: Callable[[Path], Made]) -> Made:
    """Return what `write` made in an empty folder, once in a run of tests: by the first worker that asks.

    Args:
        name: what distinguishes it from everything else that is shared; a part of a path.
        write: makes files in the folder, and returns an artifact or anything else that pickles, such as the folder;
            what it raises is raised, and the next call tries again.
    """
    folder = shared_folder(factory) / name
    record = folder.with_name(f"{name}.pickle")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not record.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a failed call left
            folder.mkdir()
            record.write_bytes(pickle.dumps(write(folder)))
    found: Made = pickle.loads(record.read_bytes())
    return found


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the workers of pytest-xdist have in common; without workers, the process's own."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder
