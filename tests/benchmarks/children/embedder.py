"""sentence-transformers in its own environment: `embedder.py BACKEND MODEL TEXTS.json FOLDER`.

Run by its path: neither this project nor anything of it is installed there. It opens the model by each way that the
backend has, as its documentation says, encodes the documents, and prints what it has as a line of JSON. Then each line
on standard input, `{"way": "torch_fp32"}`, is answered with the seconds in which it encodes the sentences, tokenizing
included.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_BATCH = 32


def torch_fp32(model: Path, texts: Mapping[str, Any], folder: Path) -> Any:
    """The eager model in fp32."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model), device="cpu")


def torch_bf16(model: Path, texts: Mapping[str, Any], folder: Path) -> Any:
    """The eager model in bf16."""
    return torch_fp32(model, texts, folder).bfloat16()


def onnx_fp32(model: Path, texts: Mapping[str, Any], folder: Path) -> Any:
    """The ONNX backend, as exported."""
    return _exported("onnx", model, folder)


def onnx_int8(model: Path, texts: Mapping[str, Any], folder: Path) -> Any:
    """The ONNX backend, by dynamic quantization for AVX512-VNNI."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    place = folder / "onnx"
    export_dynamic_quantized_onnx_model(_exported("onnx", model, folder), "avx512_vnni", str(place))
    (file,) = (
        place.glob("onnx/*quint8*.onnx") if list(place.glob("onnx/*quint8*.onnx")) else place.glob("onnx/*int8*.onnx")
    )
    return SentenceTransformer(
        str(place), device="cpu", backend="onnx", model_kwargs={"file_name": f"onnx/{file.name}"}, local_files_only=True
    )


def openvino(model: Path, texts: Mapping[str, Any], folder: Path) -> Any:
    """The OpenVINO backend, in the arithmetic that OpenVINO chooses."""
    return _exported("openvino", model, folder)


def openvino_fp32(model: Path, texts: Mapping[str, Any], folder: Path) -> Any:
    """The OpenVINO backend, told to compute in fp32."""
    return _exported("openvino", model, folder, model_kwargs={"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}})


def openvino_int8(model: Path, texts: Mapping[str, Any], folder: Path) -> Any:
    """The OpenVINO backend, by static quantization with 300 of the texts that are given for it."""
    from sentence_transformers import SentenceTransformer, export_static_quantized_openvino_model

    data, place = folder / "data", folder / "openvino"
    data.mkdir(exist_ok=True)
    lines = [json.dumps({"sentence": text}) for text in texts["calibration"]]
    (data / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    export_static_quantized_openvino_model(
        _exported("openvino", model, folder), None, str(place), dataset_name=str(data), dataset_config_name="default",
        dataset_split="train", column_name="sentence",
    )  # fmt: skip
    (file,) = place.glob("openvino/*quantized*.xml")
    return SentenceTransformer(
        str(place),
        device="cpu",
        backend="openvino",
        model_kwargs={"file_name": f"openvino/{file.name}"},
        local_files_only=True,
    )


def _exported(backend: str, model: Path, folder: Path, **further: Any) -> Any:
    """The model by a backend, saved with its export in `folder`, from where quantized forms are read as well."""
    from sentence_transformers import SentenceTransformer

    place = folder / backend
    if not place.is_dir():
        shutil.copytree(model, place)
    return SentenceTransformer(str(place), device="cpu", backend=backend, local_files_only=True, **further)


_WAYS: Mapping[str, tuple[Callable[[Path, Mapping[str, Any], Path], Any], ...]] = {
    "torch": (torch_fp32, torch_bf16),
    "onnx": (onnx_fp32, onnx_int8),
    "openvino": (openvino, openvino_fp32, openvino_int8),
}


def main(backend: str, model: str, texts: str, folder: str) -> None:
    """Open what the backend has, tell it, and answer."""
    import numpy as np

    told = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    opened: dict[str, Any] = {}
    ways: dict[str, dict[str, Any]] = {}
    for make in _WAYS[backend]:
        try:
            found = make(Path(model), given, Path(folder))
            vectors = {name: found.encode(given[name], batch_size=_BATCH) for name in ("documents", "few")}
            np.savez(Path(folder) / f"{make.__name__}.npz", **vectors)
        except Exception as error:  # noqa: BLE001 - libraries fail in any way they like; the table says how
            ways[make.__name__] = {"problem": f"{type(error).__name__}: {error}"[:300]}
            continue
        opened[make.__name__] = found
        ways[make.__name__] = {"vectors": str(Path(folder) / f"{make.__name__}.npz")}
    print(json.dumps(ways), file=told, flush=True)
    for line in sys.stdin:
        chosen = opened[json.loads(line)["way"]]
        start = time.perf_counter()
        chosen.encode(given["sentences"], batch_size=_BATCH)
        print(json.dumps(time.perf_counter() - start), file=told, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
