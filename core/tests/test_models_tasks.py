"""The task is read from transformers' own tables, and a class of several is for the one its name says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import transformers

from optimum_core.models import tasks

DETECTED = {
    "BertForSequenceClassification": "text-classification",
    "DistilBertForTokenClassification": "token-classification",
    "RobertaForQuestionAnswering": "question-answering",
    "BertForMultipleChoice": "multiple-choice",
    "BertForMaskedLM": "fill-mask",
    "BartForConditionalGeneration": "text2text-generation",
    "T5ForConditionalGeneration": "text2text-generation",
    "GPT2LMHeadModel": "text-generation",
    "Wav2Vec2ForCTC": "automatic-speech-recognition",
    "WhisperForConditionalGeneration": "automatic-speech-recognition",
    "ASTForAudioClassification": "audio-classification",
    "ViTForImageClassification": "image-classification",
    "SegformerForSemanticSegmentation": "image-segmentation",
    "DetrForObjectDetection": "object-detection",
    "CLIPModel": "zero-shot-image-classification",
    "BertModel": "feature-extraction",
    "ViTModel": "image-feature-extraction",
}


@pytest.mark.parametrize(("class_name", "task"), DETECTED.items(), ids=DETECTED)
def test_a_class_has_the_task_that_it_was_made_for(class_name: str, task: str) -> None:
    assert tasks.detect(class_name) == task
    assert task in tasks.known()


@pytest.mark.parametrize("class_name", ["Linear", "BertForEverything", ""])
def test_a_class_of_no_table_is_custom(class_name: str) -> None:
    assert tasks.detect(class_name) == tasks.CUSTOM


def test_the_tables_are_those_of_this_transformers() -> None:
    from transformers.models.auto import modeling_auto

    gone = [table for table, _ in tasks.TABLES if not hasattr(modeling_auto, table)]
    assert not gone


def test_the_class_comes_from_the_architectures() -> None:
    config = SimpleNamespace(architectures=["SomebodysOwn", "BertForMaskedLM"])
    assert tasks.resolve_class(config) is transformers.BertForMaskedLM


@pytest.mark.parametrize("architectures", [None, [], ["SomebodysOwn"]])
def test_without_a_known_architecture_it_is_the_bare_model(architectures: list[str] | None) -> None:
    assert tasks.resolve_class(SimpleNamespace(architectures=architectures)) is transformers.AutoModel
