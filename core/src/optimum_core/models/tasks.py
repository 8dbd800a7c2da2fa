"""Detection of a model's task, from `config.architectures` and transformers' own tables of classes."""

from __future__ import annotations

from functools import cache
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.packages import present

#: transformers' tables in the order in which they decide: a class in several is for the first task.
TABLES = (
    ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "text-classification"),
    ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", "token-classification"),
    ("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", "question-answering"),
    ("MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES", "multiple-choice"),
    ("MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES", "next-sentence-prediction"),
    ("MODEL_FOR_CTC_MAPPING_NAMES", "automatic-speech-recognition"),
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", "automatic-speech-recognition"),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "text2text-generation"),
    ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "fill-mask"),
    ("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES", "audio-classification"),
    ("MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING_NAMES", "audio-frame-classification"),
    ("MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES", "audio-xvector"),
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "image-classification"),
    ("MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES", "video-classification"),
    ("MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES", "image-segmentation"),
    ("MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES", "image-segmentation"),
    ("MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES", "object-detection"),
    ("MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES", "zero-shot-object-detection"),
    ("MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES", "depth-estimation"),
    ("MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES", "masked-image-modeling"),
    ("MODEL_FOR_IMAGE_TO_IMAGE_MAPPING_NAMES", "image-to-image"),
    ("MODEL_FOR_KEYPOINT_DETECTION_MAPPING_NAMES", "keypoint-detection"),
    ("MODEL_FOR_MASK_GENERATION_MAPPING_NAMES", "mask-generation"),
    ("MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING_NAMES", "document-question-answering"),
    ("MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES", "visual-question-answering"),
    ("MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING_NAMES", "table-question-answering"),
    ("MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES", "zero-shot-image-classification"),
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "text-generation"),
    ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "image-text-to-text"),
    ("MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES", "text-to-audio"),
    ("MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES", "text-to-audio"),
    ("MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING_NAMES", "time-series-prediction"),
    ("MODEL_FOR_IMAGE_MAPPING_NAMES", "image-feature-extraction"),
    ("MODEL_MAPPING_NAMES", "feature-extraction"),
)

#: The task of a plain `torch.nn.Module`, and of a class in none of the tables.
CUSTOM = "custom"
#: The task of a transformer alone, and of one with the modules behind it that make it a sentence encoder.
FEATURES, SENTENCES = "feature-extraction", "sentence-similarity"
_SENTENCE_ENCODERS = ("SentenceEncoder", "PromptlessEncoder")

#: Tasks whose model reads from left to right, so that a batch may be padded on the left.
CAUSAL = frozenset({"text-generation"})


@cache
def _tasks_by_class() -> dict[str, list[str]]:
    """Return the tasks of every class, the one that decides first."""
    from transformers.models.auto import modeling_auto

    found: dict[str, list[str]] = {name: [SENTENCES] for name in _SENTENCE_ENCODERS}
    for table, task in TABLES:
        for names in getattr(modeling_auto, table, {}).values():
            for name in (names,) if isinstance(names, str) else names:
                found.setdefault(name, []).append(task)
    return found


def detect(class_name: str) -> str:
    """Return the task of a transformers class; `CUSTOM` if transformers lists it under none.

    >>> detect("BertForSequenceClassification")
    'text-classification'
    """
    return _tasks_by_class().get(class_name, [CUSTOM])[0]


def check_fit(task: str | None, class_name: str, who: str) -> None:
    """Refuse a task that a transformers class is not for; a class in no table may be for any.

    Raises:
        OptionError: the class is for other tasks; the message names them.
    """
    fitting = dict.fromkeys(_tasks_by_class().get(class_name, ()))
    if task is not None and fitting and task not in (*fitting, CUSTOM):
        why = f"{who} is a {class_name}, which is for {', '.join(fitting)}, not {task}"
        raise OptionError("task", why, "leave task out, or give a model of another class")


def fits(task: str, stated: str, class_name: str) -> bool:
    """Whether a model that was made for one task is for another one too: its class is in the tables of both.

    >>> fits("fill-mask", "fill-mask", ""), fits("fill-mask", "text-classification", "")
    (True, False)
    """
    both = _tasks_by_class().get(class_name, ()) if class_name and present("transformers") else ()
    return task == stated or task in both


def known() -> frozenset[str]:
    """Return every task that can be detected or declared."""
    return frozenset(task for _, task in TABLES) | {CUSTOM, SENTENCES}


def resolve_class(config: Any) -> Any:
    """Return the transformers class that `config.architectures` names; `AutoModel` if it names none that exists."""
    import transformers

    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if found is not None:
            return found
    return transformers.AutoModel
