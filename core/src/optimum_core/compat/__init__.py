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
    OVWeightQuantizationConfig,
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
