"""Operations on embeddings, as sentence-transformers defines them: length 1, fewer dimensions, bits, similarity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optimum_core.errors import InputError
from optimum_core.types.arrays import NDArray

#: The least norm that a vector is divided by, as in `torch.nn.functional.normalize`, and by cosine similarity.
_LEAST = 1e-12
EMBEDDING_PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def widened(vectors: NDArray) -> NDArray:
    """Return vectors of 16 bits in 32, since squares and sums leave their range; others as they are."""
    return vectors.astype(np.promote_types(vectors.dtype, np.float32), copy=False)


def normalized(vectors: NDArray) -> NDArray:
    """Return vectors of length 1; a vector of zeros stays one."""
    wide = widened(vectors)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.asarray(wide / np.maximum(norms, _LEAST), dtype=vectors.dtype)


def quantized(vectors: NDArray, precision: str, who: str) -> NDArray:
    """Return embeddings [items, dimensions] in fewer bits.

    Args:
        precision: "int8" and "uint8" spread the range that each dimension has among these vectors over 256 steps;
            "binary" and "ubinary" keep the signs, eight in a byte.

    Raises:
        InputError: the precision is unknown, or there is one vector alone, which has no range.
    """
    if precision == "float32" or not len(vectors):
        return vectors
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return np.asarray(bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8))
    if len(vectors) == 1:
        why = f"precision {precision!r} takes the range of each dimension from the texts of the call, and there is one"
        raise InputError(who, why, "encode many texts in one call, or use precision='binary'")
    vectors = widened(vectors)
    least, greatest = vectors.min(axis=0), vectors.max(axis=0)
    steps = (greatest - least) / 255
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((vectors - least) / steps), 0, 255)
    return np.asarray(levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8))


def check_precision(precision: Any, who: str) -> None:
    """Raise `InputError` for a precision of embeddings that is unknown."""
    if precision not in EMBEDDING_PRECISIONS:
        raise InputError(who, f"precision {precision!r} is unknown", f"pass one of {', '.join(EMBEDDING_PRECISIONS)}")


def _dot(a: NDArray, b: NDArray) -> NDArray:
    return np.asarray(a @ b.T)


def _cosine(a: NDArray, b: NDArray) -> NDArray:
    return _dot(normalized(a), normalized(b))


def _euclidean(a: NDArray, b: NDArray) -> NDArray:
    return np.stack([-np.linalg.norm(row - b, axis=-1) for row in a]) if len(a) else np.zeros((0, len(b)), a.dtype)


def _manhattan(a: NDArray, b: NDArray) -> NDArray:
    return np.stack([-np.abs(row - b).sum(axis=-1) for row in a]) if len(a) else np.zeros((0, len(b)), a.dtype)


SIMILARITIES: Mapping[str, Callable[[NDArray, NDArray], NDArray]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}


def similarity(name: str, a: Any, b: Any, who: str) -> NDArray:
    """Return the similarity of every vector of `a` [n, dimensions] and every one of `b` [m, dimensions], [n, m]; a
    distance is negative.

    Raises:
        InputError: the function is unknown, or the vectors differ in size.
    """
    if name not in SIMILARITIES:
        known = ", ".join(SIMILARITIES)
        raise InputError(who, f"similarity_fn_name {name!r} is unknown", f"state one of {known}")
    first, second = as_matrix(a), as_matrix(b)
    if first.shape[-1] != second.shape[-1]:
        why = f"the embeddings have {first.shape[-1]} and {second.shape[-1]} dimensions"
        raise InputError(who, why, "compare embeddings of one model and one truncate_dim")
    return SIMILARITIES[name](first, second)


def pairwise(name: str, a: Any, b: Any, who: str) -> NDArray:
    """Return the similarity of each vector of `a` and the one of `b` at its place, [n]."""
    first, second = as_matrix(a), as_matrix(b)
    if first.shape != second.shape:
        raise InputError(who, f"there are {len(first)} and {len(second)} embeddings", "pass as many of both")
    found = [similarity(name, x, y, who)[0, 0] for x, y in zip(first, second, strict=True)]
    return np.asarray(found, dtype=first.dtype)


def as_matrix(vectors: Any) -> NDArray:
    """Return one vector or many, as arrays or tensors, as floats [n, dimensions] of 32 bits or more."""
    if isinstance(vectors, list | tuple):
        vectors = [np.asarray(_on_host(vector)) for vector in vectors]
    found = np.asarray(_on_host(vectors))
    found = widened(found) if found.dtype.kind == "f" else found.astype(np.float32)
    return found[None] if found.ndim == 1 else found


def _on_host(vectors: Any) -> Any:
    return vectors.detach().cpu().numpy() if hasattr(vectors, "detach") else vectors
