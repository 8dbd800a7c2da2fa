"""Fifty short documents of news, and how similar people find each pair of them; from a package alone.

M. D. Lee, B. Pincombe and M. Welsh, "An empirical evaluation of models of text document similarity", CogSci 2005. The
texts and ratings are read out of gensim's wheel, which the Makefile fetches into the virtual environment.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from optimum_core.errors import UnavailableError

DATA = Path(sys.prefix) / "data"
_FOLDER = "gensim/test/test_data/"
_TEXTS, _OTHERS, _RATINGS = "lee.cor", "lee_background.cor", "similarities0-1.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarities:
    """The documents, other ones to calibrate with, and the rating of every pair, in the order of `pairs`."""

    documents: tuple[str, ...]
    others: tuple[str, ...]
    ratings: tuple[float, ...]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The places of both documents of every pair."""
        return tuple(combinations(range(len(self.documents)), 2))

    def spearman(self, vectors: np.ndarray[Any, Any]) -> float:
        """The rank correlation of the cosines of the documents' vectors with the ratings."""
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        from scipy.stats import spearmanr

        found = [float(unit[a] @ unit[b]) for a, b in self.pairs]
        return float(spearmanr(found, self.ratings).statistic)


def similarities() -> Similarities:
    """The documents with their ratings.

    Raises:
        UnavailableError: the archive is not there, or holds something else.
    """
    found = sorted(DATA.glob("gensim-*.whl"))
    if not found:
        raise UnavailableError(
            "the rated documents", f"{DATA} holds no gensim-*.whl", "make bench-embeddings fetches it"
        )
    with ZipFile(found[-1]) as archive:
        texts, others, ratings = (
            archive.read(_FOLDER + name).decode("latin-1") for name in (_TEXTS, _OTHERS, _RATINGS)
        )
    matrix = np.array([[float(value) for value in line.split()] for line in ratings.splitlines()])
    documents = tuple(texts.strip().split("\n"))
    rated = tuple(float(matrix[a, b]) for a, b in combinations(range(len(documents)), 2))
    return Similarities(documents=documents, others=tuple(others.strip().split("\n")), ratings=rated)
