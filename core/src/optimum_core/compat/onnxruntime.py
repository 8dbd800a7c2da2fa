"""The models of optimum-onnx: `accelerate(model, target="ort")`, one class for each task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from optimum_core.compat.arguments import check
from optimum_core.compat.devices import check_device
from optimum_core.compat.opening import FromPretrained, exporting, place_of
from optimum_core.errors import OptionError

if TYPE_CHECKING:
    from optimum_core import AcceleratedModel

_CPU = "CPUExecutionProvider"
_TARGETS: Mapping[str, str] = {
    _CPU: "ort:cpu",
    "CUDAExecutionProvider": "ort:cuda",
    "TensorrtExecutionProvider": "ort:tensorrt",
    "ROCMExecutionProvider": "ort:rocm",
    "MIGraphXExecutionProvider": "ort:migraphx",
    "DmlExecutionProvider": "ort:dml",
    "CoreMLExecutionProvider": "ort:coreml",
}
_ONE_OF = f"use one of {', '.join(_TARGETS)}"


class ORTModel:
    """`accelerate(model, target="ort")`; `load(directory)` of what `save_pretrained` wrote."""

    task: ClassVar[str | None] = None

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | os.PathLike[str],
        *,
        config: Any = None,
        export: bool | None = None,
        from_transformers: bool | None = None,
        provider: str = _CPU,
        file_name: str | None = None,
        subfolder: str = "",
        revision: str | None = None,
        trust_remote_code: bool = False,
        budget: float | None = None,
        options: Mapping[str, Any] | None = None,
        **further: Any,
    ) -> AcceleratedModel:
        """Return the model of a checkpoint, of a directory with an ONNX file, or of an artifact.

        It has `providers`, `provider` and `model_save_dir` as models of optimum-onnx do.

        Args:
            config: the configuration to read a checkpoint under, instead of its own.
            export: True and None export what is not exported yet; `from_transformers` is its older name.
            provider: the execution provider; it names the device of the target.
            file_name: one of several graphs in a directory.
            options: options of the backend, in place of `session_options`.
            budget: seconds for the search, as of `accelerate`.
            further: other arguments of optimum-onnx: refused, or warned of where no value depends on them.

        Raises:
            OptionError: an argument has a meaning there that is not kept here.
            OptimumError: as `accelerate` and `load`.
        """
        check(cls.__name__, further)
        if provider not in _TARGETS:
            raise OptionError(f"{cls.__name__}, provider", f"{provider!r} is unknown", _ONE_OF)
        check_device(cls.__name__, "provider", provider, _TARGETS[provider])
        place = place_of(cls.__name__, model_id, file_name, subfolder, revision)
        further = {
            "task": cls.task, "revision": revision, "trust_remote_code": trust_remote_code, "budget": budget,
            "options": options,
        }  # fmt: skip
        model = FromPretrained(
            who=cls.__name__, place=place, target=_TARGETS[provider], config=config,
            export=exporting(export, from_transformers), further=further,
        ).open()  # fmt: skip
        vars(model).update(_further_attributes(model, provider))
        return model


def _further_attributes(model: AcceleratedModel, provider: str) -> dict[str, Any]:
    """Return the attributes that programs of optimum-onnx read of a model, by name."""
    providers = [provider] if provider == _CPU else [provider, _CPU]
    return {"providers": providers, "provider": provider, "model_save_dir": model.directory}


class ORTModelForAudioClassification(ORTModel):
    """`accelerate(model, target="ort", task="audio-classification")`."""

    task = "audio-classification"


class ORTModelForAudioFrameClassification(ORTModel):
    """`accelerate(model, target="ort", task="audio-frame-classification")`."""

    task = "audio-frame-classification"


class ORTModelForAudioXVector(ORTModel):
    """`accelerate(model, target="ort", task="audio-xvector")`."""

    task = "audio-xvector"


class ORTModelForCausalLM(ORTModel):
    """`accelerate(model, target="ort", task="text-generation")`, with `generate`."""

    task = "text-generation"


class ORTModelForCTC(ORTModel):
    """`accelerate(model, target="ort", task="automatic-speech-recognition")`."""

    task = "automatic-speech-recognition"


class ORTModelForCustomTasks(ORTModel):
    """`accelerate(model, target="ort")`."""


class ORTModelForFeatureExtraction(ORTModel):
    """`accelerate(model, target="ort", task="feature-extraction")`."""

    task = "feature-extraction"


class ORTModelForImageClassification(ORTModel):
    """`accelerate(model, target="ort", task="image-classification")`."""

    task = "image-classification"


class ORTModelForImageToImage(ORTModel):
    """`accelerate(model, target="ort", task="image-to-image")`."""

    task = "image-to-image"


class ORTModelForMaskedLM(ORTModel):
    """`accelerate(model, target="ort", task="fill-mask")`."""

    task = "fill-mask"


class ORTModelForMultipleChoice(ORTModel):
    """`accelerate(model, target="ort", task="multiple-choice")`."""

    task = "multiple-choice"


class ORTModelForQuestionAnswering(ORTModel):
    """`accelerate(model, target="ort", task="question-answering")`."""

    task = "question-answering"


class ORTModelForSemanticSegmentation(ORTModel):
    """`accelerate(model, target="ort", task="image-segmentation")`."""

    task = "image-segmentation"


class ORTModelForSeq2SeqLM(ORTModel):
    """`accelerate(model, target="ort", task="text2text-generation")`, with `generate`."""

    task = "text2text-generation"


class ORTModelForSequenceClassification(ORTModel):
    """`accelerate(model, target="ort", task="text-classification")`."""

    task = "text-classification"


class ORTModelForSpeechSeq2Seq(ORTModel):
    """`accelerate(model, target="ort", task="automatic-speech-recognition")`, with `generate`."""

    task = "automatic-speech-recognition"


class ORTModelForTokenClassification(ORTModel):
    """`accelerate(model, target="ort", task="token-classification")`."""

    task = "token-classification"


class ORTModelForVision2Seq(ORTModel):
    """`accelerate(model, target="ort", task="image-text-to-text")`, with `generate`."""

    task = "image-text-to-text"


class ORTModelForZeroShotImageClassification(ORTModel):
    """`accelerate(model, target="ort", task="zero-shot-image-classification")`."""

    task = "zero-shot-image-classification"
