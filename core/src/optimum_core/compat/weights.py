"""Quantization of weights as optimum-intel asks for it: `quantize=QuantizeConfig(scheme="weight-only", …)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimum_core.compat.arguments import named
from optimum_core.errors import OptionError

if TYPE_CHECKING:
    from optimum_core.types import QuantizeConfig

#: Their fields that are not here, with the values that say what is done anyway.
_USUAL: Mapping[str, tuple[Any, ...]] = {
    "num_samples": (None,),
    "tokenizer": (None,),
    "processor": (None,),
    "all_layers": (None, False),
    "sensitivity_metric": (None,),
    "ignored_scope": (None,),
    "lora_correction": (None, False),
    "backup_precision": (None,),
    "statistics_path": (None,),
    "group_size_fallback": (None,),
    "dq_group_size": (None,),
    "weight_only": (None, True),
}
#: Fields of which one makes a mapping a configuration of activations, or of several models.
_OF_OTHERS = ("weight_quantization_config", "full_quantization_config", "quantization_configs", "activation_format")
_OTHERS = 'accelerate(model, target="openvino", quantize="int8", calibration=texts) quantizes activations too'


@named(_USUAL)
@dataclass(frozen=True)
class OVWeightQuantizationConfig:
    """`QuantizeConfig(scheme="weight-only", weights="int4", …)`, for `quantization_config=`.

    Attributes:
        bits: 4 or 8.
        sym: whether zero of the weights is the integer 0; None: the backend's choice.
        group_size: weights of one channel that share a scale; -1: the whole channel.
        ratio: share of the layers that get 4 bits.
        dtype: the number format, which goes before `bits`: "int4", "int8" or "nf4".
        quant_method: "default", or "awq": 4-bit weights rounded with regard to `dataset`.
        gptq: the same by GPTQ.
        scale_estimation: the same by scales that keep the outputs.
        dataset: texts, for `calibration=`; names of data sets are refused.
    """

    bits: int = 8
    sym: bool | None = None
    group_size: int | None = None
    ratio: float | None = None
    dtype: str | None = None
    quant_method: str | None = None
    gptq: bool | None = None
    scale_estimation: bool | None = None
    dataset: list[str] | None = None

    def config(self) -> QuantizeConfig:
        """Return ours.

        Raises:
            OptionError: a value is not one of those allowed.
        """
        from optimum_core.types import QuantizeConfig

        weights = self.dtype or f"int{self.bits}"
        # What is stated of the whole channel, or of all layers, says nothing of 8 bits, which are so always.
        stated = weights != "int8"
        return QuantizeConfig(
            scheme="weight-only", weights=weights, symmetric=self.sym, algorithm=self._algorithm(),
            group_size=self.group_size if stated or self.group_size != -1 else None,
            ratio=self.ratio if stated or self.ratio != 1 else None,
        )  # fmt: skip

    def _algorithm(self) -> str | None:
        method = str(getattr(self.quant_method, "value", self.quant_method or "default"))
        asked = {
            "gptq": bool(self.gptq),
            "scale-estimation": bool(self.scale_estimation),
            method: method != "default",
        }
        found = [name for name, wanted in asked.items() if wanted]
        if len(found) > 1:
            why = f"{' and '.join(found)} are asked for, and one is done"
            raise OptionError(f"{type(self).__name__}, quant_method", why, "name one")
        return found[0] if found else None

    def arguments(self, who: str) -> dict[str, Any]:
        """Return the arguments of `accelerate`.

        Raises:
            OptionError: a value is not one of those allowed, or the data set is a name.
        """
        if isinstance(self.dataset, str):
            why, remedy = f"{self.dataset!r} is a name", "pass a list of a few hundred typical texts"
            raise OptionError(f"{who}, quantization_config, dataset", why, remedy)
        return {"quantize": self.config(), "calibration": self.dataset}


def quantized(who: str, in_8_bits: bool | None, config: Any) -> dict[str, Any]:
    """Return the arguments of `accelerate` for `load_in_8bit` and `quantization_config`.

    Raises:
        OptionError: both are given, or the second is of another kind.
    """
    if config is None:
        return {"quantize": "weight-only-int8" if in_8_bits else None}
    if in_8_bits:
        raise OptionError(f"{who}, quantization_config", "load_in_8bit contradicts it", "give one of them")
    if isinstance(config, Mapping):
        if config.get("weight_only") is False or any(name in config for name in _OF_OTHERS):
            raise OptionError(f"{who}, quantization_config", "it is not of weights alone", _OTHERS)
        config = OVWeightQuantizationConfig(**config)
    if not isinstance(config, OVWeightQuantizationConfig):
        remedy = "give an OVWeightQuantizationConfig of optimum_core.compat or its fields, or accelerate(…, quantize=…)"
        raise OptionError(f"{who}, quantization_config", f"it is a {type(config).__name__}", remedy)
    return config.arguments(who)
