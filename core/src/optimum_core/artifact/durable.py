"""Atomic writing of files and directories: a crash at any moment leaves either the old content or the new."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path


def aside(path: Path, purpose: str) -> Path:
    """Return a new hidden name beside `path`: `.<name>.<random>.<purpose>`. Creates nothing."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{purpose}")


def sync(path: Path) -> None:
    """Flush a file's bytes, or a directory's names, to the disk."""
    if path.is_dir():
        if os.name == "nt":  # Windows has no fsync for directories, and orders their changes itself.
            return
        flags = os.O_RDONLY
    else:
        flags = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """`sync` every regular file and directory under `root`, then `root` itself. Links are not followed."""
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                sync(path)
        sync(Path(folder))


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; a reader sees the former file or the whole new one."""
    temporary = aside(path, "tmp")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def move_in(made: Path, place: Path) -> None:
    """Move the directory `made` to `place`, replacing a directory there.

    No portable call replaces a directory that is not empty in one step, so the former one is first renamed to
    `.<name>.<random>.old`. A crash between the two renames leaves both directories whole, and nothing at `place`. It is
    renamed once more before it is deleted, so that a directory named `.old` is always whole.
    """
    former = aside(place, "old") if place.exists() else None
    if former:
        place.rename(former)
    try:
        made.rename(place)
    except OSError:
        if former:
            former.rename(place)
        raise
    sync(place.parent)
    if former:
        leaving = aside(place, "gone")
        former.rename(leaving)
        remove(leaving)


def remove(root: Path) -> None:
    """Delete a tree as far as the system permits; remaining files are hidden and harmless."""
    shutil.rmtree(root, ignore_errors=True)
