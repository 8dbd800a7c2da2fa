"""The manifest: what is written comes back, and nothing that was altered does."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import small_manifest
from optimum_core.artifact import FileEntry, Manifest, ModelInfo, decode, encode
from optimum_core.errors import ArtifactError, OptionError
from optimum_core.types import (
    CandidateResult,
    CaseResult,
    Cpu,
    Fidelity,
    Gpu,
    Hardware,
    Measurement,
    Npu,
    Report,
    Step,
    TensorSpec,
)

_TEXT = st.text(max_size=8)
_FLOAT = st.floats(allow_nan=False)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | _FLOAT | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)
_OPTIONS = st.dictionaries(_TEXT, _JSON, max_size=3)


def _several(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=2).map(tuple)


_SPEC = st.builds(
    TensorSpec,
    name=_TEXT,
    dtype=_TEXT,
    shape=_several(st.integers(0, 2**40) | _TEXT),
    default=st.sampled_from(["ones", "zeros", None]),
)
_STEP = st.builds(Step, hook=_TEXT, backend=_TEXT, tool=_TEXT, version=_TEXT, options=_OPTIONS)
_CASE = st.builds(
    CaseResult,
    case=_TEXT,
    shapes=st.dictionaries(_TEXT, _several(st.integers(0, 99)), max_size=2),
    output=_TEXT,
    relative_error=_FLOAT,
    cosine=_FLOAT,
    agreement=st.none() | _FLOAT,
    passed=st.booleans(),
    problem=_TEXT,
)
_FIDELITY = st.builds(Fidelity, precision=_TEXT, tolerance=_FLOAT, results=_several(_CASE))
_MEASUREMENT = st.builds(Measurement, shape=_TEXT, median=_FLOAT, p95=_FLOAT, runs=st.integers(0, 99))
_CANDIDATE = st.builds(
    CandidateResult,
    name=_TEXT,
    backend=_TEXT,
    device=_TEXT,
    precision=_TEXT,
    outcome=st.sampled_from(["chosen", "slower", "wrong", "failed", "skipped"]),
    reason=_TEXT,
    options=_OPTIONS,
    fidelity=st.none() | _FIDELITY,
    measurements=_several(_MEASUREMENT),
    build_seconds=st.none() | _FLOAT,
    size=st.none() | st.integers(0, 2**50),
)
_REPORT = st.builds(Report, model=_TEXT, task=_TEXT, workload=_several(_TEXT), candidates=_several(_CANDIDATE))
_HARDWARE = st.builds(
    Hardware,
    system=_TEXT,
    system_version=_TEXT,
    cpu=st.builds(Cpu, features=st.frozensets(_TEXT, max_size=3)),
    memory=st.integers(0, 2**50),
    gpus=_several(st.builds(Gpu, vendor=_TEXT, name=_TEXT, compute_capability=st.sampled_from([None, (8, 9)]))),
    npus=_several(st.builds(Npu, vendor=_TEXT, name=_TEXT)),
)
_FILES = {"model.onnx": FileEntry(sha256="a" * 64, size=3), "parts/model.onnx.data": FileEntry(sha256="b" * 64, size=0)}
_MANIFEST = st.builds(
    Manifest,
    schema_version=st.just(1),
    created_with=st.dictionaries(_TEXT, _TEXT, max_size=2),
    task=_TEXT,
    model=st.builds(ModelInfo, name=_TEXT, fingerprint=_TEXT, class_name=_TEXT, can_generate=st.booleans()),
    backend=_TEXT,
    device=_TEXT,
    format=_TEXT,
    precision=_TEXT,
    session_options=_OPTIONS,
    inputs=_several(_SPEC),
    outputs=_several(_SPEC),
    steps=_several(_STEP),
    verified=st.booleans(),
    hardware=_HARDWARE,
    model_files=st.sampled_from([("model.onnx",), ("model.onnx", "parts/model.onnx.data")]),
    files=st.just(_FILES),
    fidelity=st.none() | _FIDELITY,
    report=st.none() | _REPORT,
)


def small(**changes: Any) -> Manifest:
    return small_manifest(**{"files": _FILES, **changes})


def signed(raw: bytes) -> bytes:
    """Give altered bytes the digest that fits them, as someone who forges a manifest would."""
    head = b'{\n  "digest": "sha256:'
    digest = hashlib.sha256(head + b"0" * 64 + raw[len(head) + 64 :]).hexdigest().encode()
    return head + digest + raw[len(head) + 64 :]


@settings(max_examples=60, deadline=None)
@given(manifest=_MANIFEST)
def test_what_is_written_comes_back(manifest: Manifest) -> None:
    raw = encode(manifest)
    again = decode(raw, "artifact")
    assert again == manifest
    assert encode(again) == raw


def test_infinity_and_nan_survive_as_json_that_any_reader_takes() -> None:
    case = CaseResult(
        case="c", shapes={}, output="y", relative_error=math.inf, cosine=math.nan, agreement=-math.inf, passed=False
    )
    raw = encode(small(fidelity=Fidelity(precision="fp32", tolerance=1e-4, results=(case,))))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(raw, parse_constant=refuse)
    fidelity = decode(raw, "artifact").fidelity
    assert fidelity is not None
    result = fidelity.results[0]
    assert result.relative_error == math.inf
    assert math.isnan(result.cosine)
    assert result.agreement == -math.inf


def test_a_mapping_that_looks_like_a_written_float_stays_a_mapping() -> None:
    options = {"$float": "nan", "a": {"$float": "inf"}, "b": {"$$float": "inf", "$": 1}, "c": {"float": "nan"}}
    assert decode(encode(small(session_options=options)), "artifact").session_options == options


def test_text_that_is_no_utf8_survives() -> None:
    step = Step(hook="export", backend="acme", tool="t", version="1", options={"quoted": "bad \udc80 name →"})
    assert decode(encode(small(steps=(step,))), "artifact").steps == (step,)


def test_every_flipped_byte_is_seen() -> None:
    raw = encode(small())
    for index in range(len(raw)):
        for mask in (0x01, 0x20, 0x80):
            altered = bytearray(raw)
            altered[index] ^= mask
            with pytest.raises(ArtifactError, match=r"optimum\.json"):
                decode(bytes(altered), "artifact")


def test_every_truncation_and_any_added_byte_is_seen() -> None:
    raw = encode(small())
    for length in range(len(raw)):
        with pytest.raises(ArtifactError, match=r"optimum\.json"):
            decode(raw[:length], "artifact")
    for extra in (b"\n", b" ", b"\0", b"}"):
        with pytest.raises(ArtifactError, match="altered"):
            decode(raw + extra, "artifact")


@pytest.mark.parametrize("schema", [3, 7])
def test_a_newer_schema_names_the_remedy_before_anything_is_decoded(schema: int) -> None:
    raw = (
        encode(small()).replace(b'"schema_version": 1', b'"schema_version": %d' % schema).replace(b'"task"', b'"tusk"')
    )
    with pytest.raises(ArtifactError, match=f"newer optimum-core, schema {schema}; this one reads up to 2") as caught:
        decode(signed(raw), "artifact")
    assert "pip install -U optimum-core" in caught.value.remedy


@pytest.mark.parametrize("schema", [b"0", b"true", b"null", b'"1"', b"1.0"])
def test_a_schema_that_never_was_is_refused(schema: bytes) -> None:
    raw = encode(small()).replace(b'"schema_version": 1', b'"schema_version": ' + schema)
    with pytest.raises(ArtifactError, match="schema_version"):
        decode(signed(raw), "artifact")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b'"verified": true', b'"verified": "yes"', r"\$\.verified"),
        (b'"task": "classification"', b'"task": 3', r"\$\.task"),
        (b'"size": 3', b'"size": -3', "model.onnx"),
        (b"a" * 64, b"a" * 63 + b"z", "model.onnx"),
        (b'"task": ', b'"task": [', "not JSON"),
    ],
)
def test_a_forged_manifest_that_does_not_fit_says_where(before: bytes, after: bytes, message: str) -> None:
    raw = encode(small())
    assert before in raw
    with pytest.raises(ArtifactError, match=message):
        decode(signed(raw.replace(before, after)), "artifact")


def test_json_nested_without_end_is_refused() -> None:
    raw = encode(small()).replace(b'"task": "classification"', b'"task": ' + b"[" * 100_000)
    with pytest.raises(ArtifactError, match="not JSON"):
        decode(signed(raw), "artifact")


@pytest.mark.parametrize(
    "name",
    [
        "../model.onnx",
        "a/../../b",
        "/etc/passwd",
        "C:/model.onnx",
        "c:model",
        "a\\b",
        "",
        "a//b",
        "./a",
        "a/",
        "a\0b",
        "nul.txt",
        "dir /a",
        "dot.",
        "optimum.json",
        "Optimum.JSON",
    ],
)
def test_names_that_are_not_safe_everywhere_are_refused_on_writing_and_reading(name: str) -> None:
    with pytest.raises(ArtifactError, match="file name"):
        encode(small(files={**_FILES, name: _FILES["model.onnx"]}))
    raw = encode(small()).replace(b'"parts/model.onnx.data"', json.dumps(name).encode())
    with pytest.raises(ArtifactError, match="file name"):
        decode(signed(raw), "artifact")


@pytest.mark.parametrize("twin", ["MODEL.onnx", "model.ONNX"])
def test_names_that_differ_in_case_only_are_refused(twin: str) -> None:
    with pytest.raises(ArtifactError, match="one file on some systems"):
        encode(small(files={**_FILES, twin: _FILES["model.onnx"]}))


@pytest.mark.parametrize("model_files", [(), ("other.onnx",)])
def test_model_files_must_be_listed(model_files: tuple[str, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"model_files|other\.onnx"):
        encode(small(model_files=model_files))


@pytest.mark.parametrize("value", [object(), b"bytes", {1: "a"}, [{"deep": {2, object}}]])
def test_options_that_json_cannot_hold_are_named(value: Any) -> None:
    with pytest.raises(OptionError, match=r"\$\.session_options\.knob"):
        encode(small(session_options={"knob": value}))


def test_reading_manifests_takes_no_heavy_package() -> None:
    code = (
        "import sys, optimum_core.artifact, optimum_core.cache\n"
        "heavy = {'numpy', 'torch', 'transformers', 'onnx', 'onnxruntime', 'pluggy', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
