"""The model card of a saved artifact: a page worth reading, that never replaces one of the user's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimum_core.artifact import Manifest, ModelInfo, load
from optimum_core.hardware import detect
from optimum_core.runtime.card import card, is_unedited_card, save_with_card
from optimum_core.types import CandidateResult, CaseResult, Fidelity, Report, Step, TensorSpec

_LOGITS = CaseResult(
    case="batch 3",
    shapes={"ids": (3, 8)},
    output="logits",
    relative_error=2e-6,
    cosine=1.0,
    agreement=1.0,
    passed=True,
)
_MADE = {"optimum-core": "0.1.0", "optimum-acme": "2.0", "acme": "7.1"}


@pytest.fixture
def manifest() -> Manifest:
    fidelity = Fidelity(precision="fp32", tolerance=1e-3, results=(_LOGITS,))
    tried = CandidateResult(
        name="acme", backend="acme", device="cpu", precision="fp32", outcome="chosen", reason="the fastest"
    )
    report = Report(model="owner/tiny", task="text-classification", workload=("1x8",), candidates=(tried,), seconds=3.0)
    return Manifest(
        created_with=_MADE,
        task="text-classification",
        model=ModelInfo(name="owner/tiny", fingerprint="x", class_name="TinyForClassification", module="tiny"),
        backend="acme",
        device="cpu",
        format="onnx",
        precision="fp32",
        quantized="static-int8",
        inputs=(TensorSpec(name="ids", dtype="int64", shape=("batch", 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 2)),),
        steps=(Step(hook="export", backend="onnx", tool="torch", version="2.13"),),
        verified=True,
        hardware=detect(),
        model_files=("model.onnx",),
        fidelity=fidelity,
        report=report,
    )


def save(manifest: Manifest, folder: Path, *, overwrite: bool = False) -> str:
    origin = folder.parent / "model.onnx"
    origin.write_bytes(b"graph")
    save_with_card(manifest, {"model.onnx": origin}, folder, overwrite=overwrite)
    return (folder / "README.md").read_text("utf-8")


def header(page: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(page.split("---\n")[1])
    return read


def test_the_header_is_what_the_hub_reads(manifest: Manifest) -> None:
    assert header(card(manifest)) == {
        "library_name": "optimum-core",
        "pipeline_tag": "text-classification",
        "base_model": "owner/tiny",
        "base_model_relation": "quantized",
        "tags": ["optimum-core", "acme", "onnx", "static-int8"],
    }
    local = dataclasses.replace(manifest.model, name="/home/me/secret/tiny")
    page = card(dataclasses.replace(manifest, model=local, quantized=None, task="custom"))
    assert header(page) == {"library_name": "optimum-core", "tags": ["optimum-core", "acme", "onnx"]}
    assert "# tiny for acme" in page and "secret" not in page


def test_the_page_says_what_it_is_how_it_was_checked_and_how_to_load_it(manifest: Manifest) -> None:
    page = card(manifest)
    assert "[owner/tiny](https://huggingface.co/owner/tiny) (`TinyForClassification`)" in page
    assert (
        "1 cases" not in page and "1 case (shapes, padding, lengths), outputs `logits`, within 1.0e-03 for fp32" in page
    )
    assert "the worst relative error is 2.0e-06, on batch 3" in page
    assert manifest.report is not None and manifest.report.to_markdown().strip() in page
    assert "pip install optimum-acme optimum-core\n" in page and "outputs = model(ids=…)" in page
    unchecked = card(dataclasses.replace(manifest, verified=False))
    assert "It was not compared with the original model." in unchecked and "worst relative error" not in unchecked


def test_a_card_is_written_anew_until_it_is_edited(manifest: Manifest, tmp_path: Path) -> None:
    place = tmp_path / "out"
    assert is_unedited_card(save(manifest, place)) and load(place) == load(place, verify_files=True)
    assert "for other" in save(dataclasses.replace(manifest, backend="other"), place)
    with (place / "README.md").open("a", encoding="utf-8") as file:
        file.write("Mine.\n")
    edited = (place / "README.md").read_text("utf-8")
    assert not is_unedited_card(edited)
    load(place)
    assert save(manifest, place) == save(manifest, place, overwrite=True) == edited


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_card_is_known_by_its_digest_with_any_line_ends(manifest: Manifest, end: str) -> None:
    page = card(manifest)
    assert is_unedited_card(page.replace("\n", end))
    assert not is_unedited_card(page.replace("acme", "acme, by me", 1)) and not is_unedited_card("")


def test_a_page_by_hand_stays_when_an_artifact_is_saved_beside_it(manifest: Manifest, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "README.md").write_text("mine", "utf-8")
    assert save(manifest, place, overwrite=True) == "mine"
