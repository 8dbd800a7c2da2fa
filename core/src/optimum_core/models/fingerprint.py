"""Fingerprints: sha256 of everything that affects a model's outputs, equal for equal models only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from optimum_core.artifact.integrity import describe
from optimum_core.artifact.meaning import meaning
from optimum_core.errors import OptionError
from optimum_core.models.code_fingerprint import CodeReader, as_json

_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json", "config.json")


def of_directory(directory: Path, *, with_code: bool) -> str:
    """Return the fingerprint of a saved model: its weights and configuration, and its code if that is run."""
    digest = hashlib.sha256()
    patterns = (*_WEIGHTS, "*.py") if with_code else _WEIGHTS
    for path in sorted({path for pattern in patterns for path in directory.glob(pattern)}):
        digest.update(f"{path.name}:{of_file(path)}\n".encode())
    return digest.hexdigest()


def of_file(path: Path) -> str:
    """Return the sha256 of one file."""
    return describe(path).sha256


def of_module(module: Any) -> str:
    """Return the fingerprint of a module in memory: tensors, attributes, configuration, and the code of classes,
    functions and hooks that belong to no library."""
    digest = hashlib.sha256()
    for part in _described(module):
        digest.update(part.encode(errors="surrogatepass"))
    return digest.hexdigest()


def _described(module: Any) -> Iterator[str]:
    for name in ("config", "generation_config"):
        config = getattr(module, name, None)
        if config is not None and hasattr(config, "to_dict"):
            yield as_json(config.to_dict())
    reader = CodeReader(_of_tensor)
    yield from reader.modules(module)
    for name, item in module.state_dict().items():  # `get_extra_state` may add what is no tensor
        yield f"{name}{_of_tensor(item) if hasattr(item, 'detach') else reader.value(item)}"


def of_processor(processor: Any) -> str:
    """Return the fingerprint of a tokenizer or processor, by what the files that it saves say; "" for none.

    Padding and truncation, which a call leaves set in a tokenizer, and where it came from do not count.
    """
    if processor is None:
        return ""
    kind = type(processor)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    if not hasattr(processor, "save_pretrained"):
        return digest.hexdigest()
    with TemporaryDirectory(prefix="optimum-") as folder:
        processor.save_pretrained(folder)
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder).as_posix()}{meaning(path)}".encode())
    return digest.hexdigest()


def _of_tensor(tensor: Any) -> str:
    """Return the layout, type, shape and sha256 of a tensor."""
    digest, sizes = hashlib.sha256(), []
    for part in _dense_parts(tensor):
        digest.update(_raw(part))
        sizes.append((str(part.dtype), tuple(part.shape)))
    whole = "" if tensor.is_nested else tuple(tensor.shape)  # that of a nested one is counted through the process
    return f"{tensor.layout}{tensor.dtype}{whole}{sizes}{digest.hexdigest()}"


def _dense_parts(tensor: Any) -> Sequence[Any]:
    """Return what a tensor consists of: its rows if nested, and indices and values if sparse."""
    import torch

    if tensor.is_nested:
        return tuple(tensor.unbind())
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout is torch.sparse_coo:
        known = tensor.detach().coalesce()
        return known.indices(), known.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor.to_dense(),)


def _raw(tensor: Any) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")


def require_values(name: Any, value: Any) -> None:
    """Raise `OptionError` for a sample input that has a shape and no values."""
    if getattr(value, "is_meta", False):
        why, remedy = (
            "it is on the meta device: it has a shape and no values",
            'make it outside of torch.device("meta")',
        )
        raise OptionError(f"sample input {name!r}", why, remedy)


def of_samples(samples: Any) -> str:
    """Return the fingerprint of sample inputs in any container; "" for none.

    Raises:
        OptionError: one has no dense values in memory, such as a sparse tensor or rows of unequal length.
    """
    if samples is None:
        return ""
    items = samples.items() if hasattr(samples, "items") else enumerate(_as_sequence(samples))
    digest = hashlib.sha256()
    for name, value in items:
        require_values(name, value)
        try:
            value = value if hasattr(value, "detach") else np.asarray(value)
            raw = _raw(value) if hasattr(value, "detach") else memoryview(np.ascontiguousarray(value).tobytes())
        except Exception as error:
            raise OptionError(f"sample input {name!r}", f"it is no tensor: {error}", "pass a dense tensor") from error
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(raw)
    return digest.hexdigest()


def _as_sequence(samples: Any) -> tuple[Any, ...]:
    return tuple(samples) if isinstance(samples, tuple | list) else (samples,)
