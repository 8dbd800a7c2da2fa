"""The optimizer of optimum-onnx: `accelerate(model, target="ort", level=…)`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from optimum_core.compat.arguments import for_accelerate, named
from optimum_core.compat.originals import original_of
from optimum_core.errors import OptionError

#: Their fields that are not here, with the values that say what is done anyway: fusions are a level that competes.
_USUAL: Mapping[str, tuple[Any, ...]] = {
    "enable_transformers_specific_optimizations": (True, False),
    "disable_gelu_fusion": (False,),
    "disable_attention_fusion": (False,),
    "disable_bias_gelu_fusion": (False,),
    "disable_layer_norm_fusion": (False,),
    "disable_skip_layer_norm_fusion": (False,),
    "disable_bias_skip_layer_norm_fusion": (False,),
    "disable_rotary_embeddings": (False,),
    "disable_embed_layer_norm": (None, True),
    "disable_embed_layer_norm_fusion": (True,),
    "disable_shape_inference": (None, False),
    "enable_gelu_approximation": (False,),
}
_LEVELS = {0: None, 1: "basic", 2: "extended", 99: "all"}


@named(_USUAL)
@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """`level=` and `precision=` of `accelerate`.

    Attributes:
        optimization_level: 1 is level "basic", 2 "extended", 99 "all"; None: the levels compete by measured time.
        optimize_for_gpu: `target="ort:cuda"`.
        fp16: `precision="fp16"`.
    """

    optimization_level: int | None = 1
    optimize_for_gpu: bool = False
    fp16: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `accelerate`.

        Raises:
            OptionError: there is no such level.
        """
        if self.optimization_level is not None and not _LEVELS.get(self.optimization_level):
            why = f"{self.optimization_level} is no level here"
            raise OptionError("OptimizationConfig, optimization_level", why, "use 1, 2 or 99; or None")
        return {
            "target": "ort:cuda" if self.optimize_for_gpu else "ort",
            "level": _LEVELS[self.optimization_level] if self.optimization_level is not None else None,
            "precision": "fp16" if self.fp16 else None,
        }


class AutoOptimizationConfig:
    """`level=` of `accelerate`: O1 is "basic"; in O2 and O3 all levels compete, by time and not by their number."""

    @staticmethod
    def O1(for_gpu: bool = False, **further: Any) -> OptimizationConfig:  # noqa: N802 (their name)
        """`level="basic"`."""
        return OptimizationConfig(optimization_level=1, optimize_for_gpu=for_gpu, **further)

    @staticmethod
    def O2(for_gpu: bool = False, **further: Any) -> OptimizationConfig:  # noqa: N802
        """No argument: the fusions and all other levels compete."""
        return OptimizationConfig(optimization_level=None, optimize_for_gpu=for_gpu, **further)

    @staticmethod
    def O3(for_gpu: bool = False, **further: Any) -> OptimizationConfig:  # noqa: N802
        """No argument, as O2: an approximation of GELU, which O3 adds there, has to agree with eager here."""
        return OptimizationConfig(optimization_level=None, optimize_for_gpu=for_gpu, **further)

    @staticmethod
    def O4(for_gpu: bool = True, **further: Any) -> OptimizationConfig:  # noqa: N802
        """`target="ort:cuda", precision="fp16"`."""
        return OptimizationConfig(**{"optimization_level": None, "optimize_for_gpu": for_gpu, "fp16": True, **further})


class ORTOptimizer:
    """`accelerate(model, target="ort", level=…)`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def from_pretrained(cls, model_or_path: Any, file_names: None = None) -> Self:
        """Take a model of ours, a checkpoint, or a directory with an ONNX file.

        Raises:
            OptionError: what a model was made from is not known.
        """
        return cls(original_of(cls.__name__, model_or_path, file_names))

    def optimize(
        self, optimization_config: OptimizationConfig, save_dir: str | os.PathLike[str], **options: Any
    ) -> Path:
        """Optimize, write an artifact, and return its directory: `accelerate(…).save_pretrained(save_dir)`.

        Args:
            options: further arguments of `accelerate`, or of theirs, which are refused or warned of.

        Raises:
            OptimumError: as `accelerate`.
        """
        from optimum_core import accelerate

        own = for_accelerate("ORTOptimizer.optimize", options)
        fast = accelerate(self._model, **optimization_config.arguments(), **own)
        fast.save_pretrained(save_dir)
        return Path(save_dir)
