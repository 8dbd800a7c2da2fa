"""Another library's own quantization, in its own environment: `peer.py NAME MODEL ROWS.npz FOLDER`.

Run by its path: neither this project nor anything of it is installed there. It quantizes the model in every way it
knows, each as that library documents it, answers all labelled rows, and prints what it has as a line of JSON. Then each
line on standard input, `{"way": 0, "shape": 1, "seconds": 0.4}`, is answered with the milliseconds of calls.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Inputs = dict[str, Any]
_SETTLE_SECONDS = 0.02  # another's threads may spin yet
_WARM_UP = 3


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of calls for that long, three at least, after some that do not count."""
    time.sleep(_SETTLE_SECONDS)
    for _ in range(_WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < _WARM_UP:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


class _Rows:
    """Batches by what they are for: "calibration", "test" with "labels", and "shapes"."""

    def __init__(self, file: str) -> None:
        import numpy as np

        found: dict[str, dict[int, Inputs]] = defaultdict(lambda: defaultdict(dict))
        with np.load(file) as arrays:
            for key in arrays.files:
                purpose, number, name = key.split("/")
                found[purpose][int(number)][name] = arrays[key]
        self._found = {purpose: [batches[i] for i in sorted(batches)] for purpose, batches in found.items()}

    def __getitem__(self, purpose: str) -> list[Inputs]:
        return self._found.get(purpose, [])

    def dataset(self) -> Any:
        """Calibration items one by one, without padding, as a `datasets.Dataset`."""
        from datasets import Dataset

        items = [
            {name: array[row][batch["attention_mask"][row] == 1].tolist() for name, array in batch.items()}
            for batch in self["calibration"]
            for row in range(len(batch["attention_mask"]))
        ]
        return Dataset.from_list(items)


def onnx_dynamic(model: Path, rows: _Rows, folder: Path) -> tuple[Any, Path]:
    """Dynamic int8 for AVX512-VNNI, by optimum-onnx."""
    return _onnx(model, rows, folder, static=False)


def onnx_static(model: Path, rows: _Rows, folder: Path) -> tuple[Any, Path]:
    """Static int8 for AVX512-VNNI, ranges by their extremes, by optimum-onnx."""
    return _onnx(model, rows, folder, static=True)


def _onnx(model: Path, rows: _Rows, folder: Path, *, static: bool) -> tuple[Any, Path]:
    from optimum.onnxruntime import AutoCalibrationConfig, AutoQuantizationConfig, ORTQuantizer
    from optimum.onnxruntime import ORTModelForSequenceClassification as Model

    exported = folder.parent / "exported"
    if not exported.is_dir():
        Model.from_pretrained(model, export=True).save_pretrained(exported)
    quantizer = ORTQuantizer.from_pretrained(exported)
    config = AutoQuantizationConfig.avx512_vnni(is_static=static, per_channel=False)
    ranges = None
    if static:
        dataset = rows.dataset()
        ranges = quantizer.fit(
            dataset=dataset,
            calibration_config=AutoCalibrationConfig.minmax(dataset),
            operators_to_quantize=config.operators_to_quantize,
        )
    quantizer.quantize(save_dir=folder, quantization_config=config, calibration_tensors_range=ranges)
    return Model.from_pretrained(folder, file_name="model_quantized.onnx"), folder / "model_quantized.onnx"


def intel_static(model: Path, rows: _Rows, folder: Path) -> tuple[Any, Path]:
    """Static int8, by optimum-intel."""
    from optimum.intel import OVConfig, OVModelForSequenceClassification, OVQuantizationConfig, OVQuantizer

    exported = OVModelForSequenceClassification.from_pretrained(model, export=True, compile=False)
    dataset = rows.dataset()
    config = OVConfig(quantization_config=OVQuantizationConfig(bits=8, num_samples=len(dataset)))
    OVQuantizer.from_pretrained(exported).quantize(
        ov_config=config, calibration_dataset=dataset, save_directory=folder, batch_size=1
    )
    return OVModelForSequenceClassification.from_pretrained(folder), folder / "openvino_model.bin"


def intel_weights(model: Path, rows: _Rows, folder: Path) -> tuple[Any, Path]:
    """int8 weights, by optimum-intel; OpenVINO decides on the arithmetic."""
    from optimum.intel import OVModelForSequenceClassification, OVWeightQuantizationConfig

    made = OVModelForSequenceClassification.from_pretrained(
        model, export=True, quantization_config=OVWeightQuantizationConfig(bits=8)
    )
    made.save_pretrained(folder)
    return OVModelForSequenceClassification.from_pretrained(folder), folder / "openvino_model.bin"


_Way = Callable[[Path, _Rows, Path], tuple[Any, Path]]
_WAYS: Mapping[str, Mapping[str, _Way]] = {
    "optimum-onnx": {"dynamic int8": onnx_dynamic, "static int8": onnx_static},
    "optimum-intel": {"static int8": intel_static, "int8 weights": intel_weights},
}


def _made(make: _Way, model: Path, rows: _Rows, folder: Path) -> tuple[dict[str, Any], list[Callable[[], object]]]:
    """Return the facts of one way, and its calls by shape; none where it fails, and the reason."""
    folder.mkdir(parents=True)
    start = time.perf_counter()
    try:
        quantized, weights = make(model, rows, folder)
        seconds = time.perf_counter() - start
        accuracy = _accuracy(quantized, rows)
        calls = [_call(quantized, inputs) for inputs in rows["shapes"]]
    except Exception as error:  # noqa: BLE001 - libraries fail in any way they like; the table says how
        return {"problem": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]}, []
    size = sum(file.stat().st_size for file in folder.glob(f"{weights.stem}.*"))
    return {"size": size, "accuracy": accuracy, "seconds": seconds}, calls


def _accuracy(model: Any, rows: _Rows) -> float | None:
    right = total = 0
    for inputs, truth in zip(rows["test"], rows["labels"], strict=True):
        right += int((_call(model, inputs)().logits.argmax(-1).numpy() == truth["labels"]).sum())
        total += len(truth["labels"])
    return right / total if total else None


def _call(model: Any, inputs: Inputs) -> Callable[[], Any]:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}

    def call() -> Any:
        with torch.inference_mode():
            return model(**tensors)

    return call


def main() -> None:
    """Quantize, answer, then time what is asked for until standard input ends."""
    name, model, file, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    rows = _Rows(file)
    made = {
        way: _made(make, Path(model), rows, Path(folder) / way.replace(" ", "-")) for way, make in _WAYS[name].items()
    }
    answers.write(json.dumps({way: facts for way, (facts, _) in made.items()}) + "\n")
    answers.flush()
    calls = [found for _, found in made.values()]
    for line in sys.stdin:
        asked = json.loads(line)
        times = timed(calls[asked["way"]][asked["shape"]], asked["seconds"])
        answers.write(json.dumps(times) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
