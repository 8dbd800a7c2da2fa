"""A small manifest for tests of artifacts."""

from __future__ import annotations

import dataclasses
from typing import Any

from optimum_core.artifact import Manifest, ModelInfo
from optimum_core.types import Cpu, Hardware, TensorSpec


def small_manifest(**changes: Any) -> Manifest:
    """Return a manifest with the fields that are required, and these changes."""
    cpu = Cpu(vendor="arm", model="N1", architecture="aarch64", features=frozenset(), physical_cores=1, usable_cores=1)
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
    plain = Manifest(
        task="classification",
        model=ModelInfo(name="tiny", fingerprint="f" * 64),
        backend="acme",
        device="cpu",
        format="onnx",
        precision="fp32",
        inputs=(spec,),
        outputs=(spec,),
        verified=True,
        hardware=Hardware(system="linux", system_version="6", cpu=cpu, memory=1),
        model_files=("model.onnx",),
    )
    return dataclasses.replace(plain, **changes)
