"""The models of optimum-intel: `accelerate(model, target="openvino")`, one class for each task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from optimum_core.compat.arguments import check
from optimum_core.compat.devices import check_device
from optimum_core.compat.opening import FromPretrained, exporting, place_of
from optimum_core.compat.weights import quantized

if TYPE_CHECKING:
    from optimum_core import AcceleratedModel


class OVModel:
    """`accelerate(model, target="openvino")`; `load(directory)` of what `save_pretrained` wrote."""

    task: ClassVar[str | None] = None

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | os.PathLike[str],
        *,
        config: Any = None,
        export: bool | None = None,
        from_transformers: bool | None = None,
        device: str = "CPU",
        compile: bool | None = True,
        ov_config: Mapping[str, Any] | None = None,
        load_in_8bit: bool | None = None,
        quantization_config: Any = None,
        file_name: str | None = None,
        subfolder: str = "",
        revision: str | None = None,
        trust_remote_code: bool = False,
        budget: float | None = None,
        **further: Any,
    ) -> AcceleratedModel:
        """Return the model of a checkpoint, of a directory with an OpenVINO IR or an ONNX file, or of an artifact.

        Args:
            config: the configuration to read a checkpoint under, instead of its own.
            export: True and None convert what is not converted yet; `from_transformers` is its older name.
            device: OpenVINO's name of it ("CPU", "GPU", "GPU.1", "NPU", "AUTO"); it names the device of the target.
            compile: False waits for `compile()` or the first use, so that `reshape` and `to` cost no search of their
                own.
            ov_config: properties of OpenVINO, as `options={"properties": …}`.
            load_in_8bit: True: `quantize="weight-only-int8"`.
            quantization_config: `quantize=` with its values: an `OVWeightQuantizationConfig`, or its fields.
            budget: seconds for the search, as of `accelerate`.
            further: other arguments of optimum-intel: refused, or warned of where no value depends on them.

        Raises:
            OptionError: an argument has a meaning there that is not kept here.
            OptimumError: as `accelerate` and `load`.
        """
        from optimum_core.compat.reshaping import OVAcceleratedModel

        check(cls.__name__, further)
        target = target_of(device)
        check_device(cls.__name__, "device", device, target)
        place = place_of(cls.__name__, model_id, file_name, subfolder, revision)
        asked = {
            "task": cls.task, "revision": revision, "trust_remote_code": trust_remote_code, "budget": budget,
            "options": {"properties": dict(ov_config)} if ov_config else None,
            **quantized(cls.__name__, load_in_8bit, quantization_config),
        }  # fmt: skip
        opening = FromPretrained(
            who=cls.__name__, place=place, target=target, config=config,
            export=exporting(export, from_transformers), further=asked,
        )  # fmt: skip
        model = OVAcceleratedModel(opening)
        if compile or compile is None:
            model.compile()
        return model


def target_of(device: str) -> str:
    """Return the target for a device by OpenVINO's name: "openvino:gpu:1" for "GPU.1", "openvino" for "AUTO"."""
    name = device.lower().replace(".", ":")
    return "openvino" if name == "auto" else f"openvino:{name}"


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
