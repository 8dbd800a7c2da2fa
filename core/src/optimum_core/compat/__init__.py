"""The classes of optimum-onnx and optimum-intel, over `accelerate` and `load`: programs of theirs run with one changed
import.

>>> from optimum_core.compat import ORTModelForSequenceClassification            # doctest: +SKIP
>>> model = ORTModelForSequenceClassification.from_pretrained("id", export=True)  # doctest: +SKIP

Each maps to one call of ours, which its docstring names, and returns an `AcceleratedModel`. An argument of theirs that
has no meaning here is refused (`OptionError`), or warned of (`IgnoredArgumentWarning`) where leaving it out changes no
value. These classes are bound to one runtime there, and so to one target here: this is the one place in core that names
backends, and no other module of core imports it. Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import NoReturn

from optimum_core.compat.arguments import IgnoredArgumentWarning
from optimum_core.compat.intel import (
    OVModelForAudioClassification,
    OVModelForCausalLM,
    OVModelForCTC,
    OVModelForCustomTasks,
    OVModelForFeatureExtraction,
    OVModelForImageClassification,
    OVModelForMaskedLM,
    OVModelForQuestionAnswering,
    OVModelForSeq2SeqLM,
    OVModelForSequenceClassification,
    OVModelForSpeechSeq2Seq,
    OVModelForTokenClassification,
    OVModelForVisualCausalLM,
    OVModelForZeroShotImageClassification,
)
from optimum_core.compat.onnxruntime import (
    ORTModelForAudioClassification,
    ORTModelForAudioFrameClassification,
    ORTModelForAudioXVector,
    ORTModelForCausalLM,
    ORTModelForCTC,
    ORTModelForCustomTasks,
    ORTModelForFeatureExtraction,
    ORTModelForImageClassification,
    ORTModelForImageToImage,
    ORTModelForMaskedLM,
    ORTModelForMultipleChoice,
    ORTModelForQuestionAnswering,
    ORTModelForSemanticSegmentation,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
    ORTModelForSpeechSeq2Seq,
    ORTModelForTokenClassification,
    ORTModelForVision2Seq,
    ORTModelForZeroShotImageClassification,
)
from optimum_core.compat.optimization import AutoOptimizationConfig, OptimizationConfig, ORTOptimizer
from optimum_core.compat.quantization import (
    AutoCalibrationConfig,
    AutoQuantizationConfig,
    CalibrationConfig,
    ORTQuantizer,
    QuantizationConfig,
)
from optimum_core.compat.weights import OVWeightQuantizationConfig
from optimum_core.errors import UnavailableError

__all__ = [
    "AutoCalibrationConfig",
    "AutoOptimizationConfig",
    "AutoQuantizationConfig",
    "CalibrationConfig",
    "IgnoredArgumentWarning",
    "ORTModelForAudioClassification",
    "ORTModelForAudioFrameClassification",
    "ORTModelForAudioXVector",
    "ORTModelForCTC",
    "ORTModelForCausalLM",
    "ORTModelForCustomTasks",
    "ORTModelForFeatureExtraction",
    "ORTModelForImageClassification",
    "ORTModelForImageToImage",
    "ORTModelForMaskedLM",
    "ORTModelForMultipleChoice",
    "ORTModelForQuestionAnswering",
    "ORTModelForSemanticSegmentation",
    "ORTModelForSeq2SeqLM",
    "ORTModelForSequenceClassification",
    "ORTModelForSpeechSeq2Seq",
    "ORTModelForTokenClassification",
    "ORTModelForVision2Seq",
    "ORTModelForZeroShotImageClassification",
    "ORTOptimizer",
    "ORTQuantizer",
    "OVModelForAudioClassification",
    "OVModelForCTC",
    "OVModelForCausalLM",
    "OVModelForCustomTasks",
    "OVModelForFeatureExtraction",
    "OVModelForImageClassification",
    "OVModelForMaskedLM",
    "OVModelForQuestionAnswering",
    "OVModelForSeq2SeqLM",
    "OVModelForSequenceClassification",
    "OVModelForSpeechSeq2Seq",
    "OVModelForTokenClassification",
    "OVModelForVisualCausalLM",
    "OVModelForZeroShotImageClassification",
    "OVWeightQuantizationConfig",
    "OptimizationConfig",
    "QuantizationConfig",
]

_PARTS = "accelerate its parts one by one, such as pipe.transformer, pipe.unet or pipe.text_encoder"
_STATIC = 'accelerate(model, target="openvino", quantize="int8", calibration=texts), or quantize=QuantizeConfig(…)'
#: Names of the other packages that are not here, by their beginning, and what takes their place; the first that fits.
_INSTEAD = {
    (
        "ORTStableDiffusion",
        "ORTDiffusion",
        "ORTLatent",
        "ORTFlux",
        "OVStableDiffusion",
        "OVDiffusion",
        "OVFlux",
    ): _PARTS,
    ("OVQuanti", "OVConfig", "OVMixed", "OVPipelineQuanti", "OVDynamicQuanti"): _STATIC,
    ("ORTTrain", "ORTSeq2SeqTrain", "OVTrain", "INCTrain"): "train with transformers, and accelerate the result",
    ("ORT",): 'accelerate(model, target="ort", task=…)',
    ("OV",): 'accelerate(model, target="openvino", task=…)',
    ("INC",): 'accelerate(model, target="inc", quantize="int8", calibration=texts)',
    ("IPEX",): "accelerate(model)",
    ("pipeline",): "transformers.pipeline(task, model=accelerated, tokenizer=tokenizer)",
}


def __getattr__(name: str) -> NoReturn:
    """Raise an error that names what takes the place of a class of the other packages that is not here.

    Raises:
        UnavailableError: it is one of theirs.
        AttributeError: it is none.
    """
    for beginnings, remedy in _INSTEAD.items():
        if name.startswith(beginnings):
            raise UnavailableError(__name__, f"it has no {name}", remedy)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
