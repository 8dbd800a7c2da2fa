"""The models of optimum-intel: `accelerate(model, target="openvino")`, one class for each task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from optimum_core.compat.arguments import check, named, opened, place_of
from optimum_core.errors import OptionError

if TYPE_CHECKING:
    from optimum_core import AcceleratedModel
    from optimum_core.types import QuantizeConfig


@named
@dataclass(frozen=True)
class OVWeightQuantizationConfig:
    """`QuantizeConfig(scheme="weight-only", weights="int4", …)`, for `quantization_config=`.

    Attributes:
        bits: 4 or 8.
        sym: whether zero of the weights is the integer 0; None: the backend's choice.
        group_size: weights of one channel that share a scale; -1: the whole channel.
        ratio: share of the layers that get 4 bits.
    """

    bits: int = 8
    sym: bool | None = None
    group_size: int | None = None
    ratio: float | None = None

    def config(self) -> QuantizeConfig:
        """Return ours.

        Raises:
            OptionError: a value is not one of those allowed.
        """
        from optimum_core.types import QuantizeConfig

        return QuantizeConfig(
            scheme="weight-only", weights=f"int{self.bits}", symmetric=self.sym, group_size=self.group_size,
            ratio=self.ratio,
        )  # fmt: skip


class OVModel:
    """`accelerate(model, target="openvino")`; `load(directory)` of what `save_pretrained` wrote."""

    task: ClassVar[str | None] = None

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | os.PathLike[str],
        *,
        export: bool | None = None,
        device: str = "CPU",
        ov_config: Mapping[str, Any] | None = None,
        load_in_8bit: bool | None = None,
        quantization_config: OVWeightQuantizationConfig | None = None,
        file_name: str | None = None,
        subfolder: str = "",
        revision: str | None = None,
        trust_remote_code: bool = False,
        budget: float | None = None,
        **further: Any,
    ) -> AcceleratedModel:
        """Return the model of a checkpoint, of a directory with an OpenVINO IR or an ONNX file, or of an artifact.

        Args:
            export: True and None convert what is not converted yet.
            device: OpenVINO's name of it ("CPU", "GPU", "GPU.1", "NPU", "AUTO"); it names the device of the target.
            ov_config: properties of OpenVINO, as `options={"properties": …}`.
            load_in_8bit: True: `quantize="weight-only-int8"`.
            quantization_config: `quantize=` with its values.
            budget: seconds for the search, as of `accelerate`.
            further: other arguments of optimum-intel: refused, or warned of where no value depends on them.

        Raises:
            OptionError: an argument has a meaning there that is not kept here.
            OptimumError: as `accelerate` and `load`.
        """
        check(cls.__name__, further)
        place = place_of(cls.__name__, model_id, file_name, subfolder)
        return opened(
            cls.__name__, place, export=export, target=_target(device), task=cls.task, revision=revision,
            trust_remote_code=trust_remote_code, budget=budget,
            options={"properties": dict(ov_config)} if ov_config else None,
            quantize=_quantized(cls.__name__, load_in_8bit, quantization_config),
        )  # fmt: skip


def _target(device: str) -> str:
    name = device.lower().replace(".", ":")
    return "openvino" if name == "auto" else f"openvino:{name}"


def _quantized(who: str, in_8_bits: bool | None, config: Any) -> Any:
    if config is None:
        return "weight-only-int8" if in_8_bits else None
    if not isinstance(config, OVWeightQuantizationConfig) or in_8_bits:
        why = "load_in_8bit contradicts it" if in_8_bits else f"it is a {type(config).__name__}"
        remedy = "give an OVWeightQuantizationConfig of optimum_core.compat alone; or accelerate(…, quantize=…)"
        raise OptionError(f"{who}, quantization_config", why, remedy)
    return config.config()


class OVModelForAudioClassification(OVModel):
    """`accelerate(model, target="openvino", task="audio-classification")`."""

    task = "audio-classification"


class OVModelForCausalLM(OVModel):
    """`accelerate(model, target="openvino", task="text-generation")`, with `generate`."""

    task = "text-generation"


class OVModelForCTC(OVModel):
    """`accelerate(model, target="openvino", task="automatic-speech-recognition")`."""

    task = "automatic-speech-recognition"


class OVModelForCustomTasks(OVModel):
    """`accelerate(model, target="openvino")`."""


class OVModelForFeatureExtraction(OVModel):
    """`accelerate(model, target="openvino", task="feature-extraction")`."""

    task = "feature-extraction"


class OVModelForImageClassification(OVModel):
    """`accelerate(model, target="openvino", task="image-classification")`."""

    task = "image-classification"


class OVModelForMaskedLM(OVModel):
    """`accelerate(model, target="openvino", task="fill-mask")`."""

    task = "fill-mask"


class OVModelForQuestionAnswering(OVModel):
    """`accelerate(model, target="openvino", task="question-answering")`."""

    task = "question-answering"


class OVModelForSeq2SeqLM(OVModel):
    """`accelerate(model, target="openvino", task="text2text-generation")`, with `generate`."""

    task = "text2text-generation"


class OVModelForSequenceClassification(OVModel):
    """`accelerate(model, target="openvino", task="text-classification")`."""

    task = "text-classification"


class OVModelForSpeechSeq2Seq(OVModel):
    """`accelerate(model, target="openvino", task="automatic-speech-recognition")`, with `generate`."""

    task = "automatic-speech-recognition"


class OVModelForTokenClassification(OVModel):
    """`accelerate(model, target="openvino", task="token-classification")`."""

    task = "token-classification"


class OVModelForVisualCausalLM(OVModel):
    """`accelerate(model, target="openvino", task="image-text-to-text")`, with `generate`."""

    task = "image-text-to-text"


class OVModelForZeroShotImageClassification(OVModel):
    """`accelerate(model, target="openvino", task="zero-shot-image-classification")`."""

    task = "zero-shot-image-classification"
