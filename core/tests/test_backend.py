"""The workbench of backend authors: each name does what its docstring says, and importing it costs nothing."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import backend
from optimum_core.backend import tracing
from optimum_core.errors import ExportError, InputError, OptionError, SessionError
from optimum_core.types import TensorSpec
from optimum_core.types.hardware import Hardware

WHO = "backend 'acme'"
IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", 8))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=("batch", 2))


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, optimum_core.backend; print(*{'numpy', 'torch', 'transformers', 'msgspec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("room", [backend, tracing], ids=lambda room: room.__name__)
def test_every_name_is_explained(room: ModuleType) -> None:
    names = [name for name in room.__all__ if name != "Port"]  # an alias, which has a comment
    assert [name for name in names if not inspect.getdoc(getattr(room, name))] == []
    page = (Path(__file__).parents[2] / "docs" / "writing-a-backend.md").read_text(encoding="utf-8")
    plain = {"Port", "FlatModule", "NamedModule", "allowed", "refused"}  # met by way of the others
    assert [name for name in room.__all__ if f"`{name}`" not in page and name not in plain] == []


@pytest.mark.parametrize(
    "name",
    [
        "backend._artifacts",
        "backend._exporting",
        "backend._probing",
        "backend._quantizing",
        "backend._sessions",
        "errors",
        "models.exporting.tracing",
        "options",
        "packages",
    ],
)
def test_the_examples_are_right(name: str) -> None:
    results = doctest.testmod(
        importlib.import_module(f"optimum_core.{name}"), optionflags=doctest.IGNORE_EXCEPTION_DETAIL
    )
    assert results.failed == 0


# Probes.


def test_packages_are_told_without_importing_them() -> None:
    assert backend.present("torch") and not backend.present("no_such_package")
    assert backend.missing(["torch", "no_such_package"]) == ["no_such_package"]
    folder = backend.package_folder("optimum_core")
    assert folder is not None and (folder / "backend").is_dir()
    assert backend.package_folder("no_such_package") is None
    assert set(backend.versions(["torch", "no-such-distribution"])) == {"torch"}


def test_what_is_not_installed_is_a_limitation() -> None:
    assert backend.limits("run", ["torch"], "pip install torch") == []
    (found,) = backend.limits("run", ["torch", "acme", "acme_tools"], "pip install acme", hook="quantize")
    assert (found.reason, found.remedy, found.hook) == (
        "acme, acme_tools are not installed",
        "pip install acme",
        "quantize",
    )


# Errors of other libraries.


def test_a_foreign_error_becomes_ours_with_its_class_and_itself_as_cause() -> None:
    with (
        pytest.raises(ExportError) as caught,
        backend.foreign_errors(WHO, ExportError, "use another", doing="static-int8 failed"),
    ):
        raise KeyError("weight")
    assert caught.value.why == "static-int8 failed: KeyError: 'weight'"
    assert (caught.value.who, caught.value.remedy) == (WHO, "use another")
    assert isinstance(caught.value.__cause__, KeyError)


def test_errors_of_ours_and_those_not_asked_for_pass() -> None:
    ours = OptionError("a", "b", "c")
    with pytest.raises(OptionError) as caught, backend.foreign_errors(WHO, ExportError, ""):
        raise ours
    assert caught.value is ours
    with pytest.raises(KeyError), backend.foreign_errors(WHO, ExportError, "", catching=ValueError):
        raise KeyError
    with pytest.raises(KeyboardInterrupt), backend.foreign_errors(WHO, ExportError, ""):
        raise KeyboardInterrupt


def test_a_printed_graph_is_cut() -> None:
    assert backend.brief(ValueError("one\n\n  two  \n")) == "one two"
    assert len(backend.brief(ValueError("node\n" * 1000))) == 500


# Files.


def test_the_file_to_open_first_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    for name in ("model", "weights"):
        (aside / name).write_text(name)
    moved: list[str] = []
    rename = Path.replace

    def recorded(path: Path, target: Path) -> Path:
        moved.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", recorded)
    backend.move_into(aside, tmp_path, ["model", "weights"])
    assert moved == ["weights", "model"] and (tmp_path / "model").read_text() == "model"


@pytest.mark.parametrize(
    ("inputs", "outputs", "problems"),
    [
        ([("input_ids", "int64", (None, 8))], [("logits", "float32", (None, 2))], []),
        ([("input_ids", "int64", ("N", None))], [("logits", "float32", None), ("more", "int8", None)], []),
        ([("input_ids", "int64", None)], [("logits", "float32", (4, 2))], []),
        ([], [("logits", "float32", None)], ["the file has no input 'input_ids'"]),
        (
            [("input_ids", "int32", None)],
            [("logits", "float32", (4, 3))],
            [
                "input 'input_ids' is int32 in the file, not int64",
                "output 'logits' is [4, 3] in the file, not ['batch', 2]",
            ],
        ),
        (
            [("input_ids", "int64", (1, 8)), ("mask", "int64", None)],
            [("logits", "float32", (2,))],
            [
                "input 'input_ids' is [1, 8] in the file, not ['batch', 8]",
                "the file also takes input 'mask'",
                "output 'logits' is [2] in the file, not ['batch', 2]",
            ],
        ),
    ],
)
def test_a_file_may_be_more_general_than_its_specs(
    inputs: list[backend.Port], outputs: list[backend.Port], problems: list[str]
) -> None:
    assert backend.interface_problems(inputs, outputs, ([IDS], [LOGITS]), "file") == problems


# Sessions.


def test_calls_go_to_the_backends_own_sessions() -> None:
    class Own:
        backend, device, inputs, outputs = "acme", "cpu", (IDS,), (LOGITS,)

        def run(self, inputs: Any) -> Any:
            return {"logits": inputs["input_ids"]}

        def close(self) -> None: ...

    given = np.ones((1, 8))
    found = backend.run_own("acme", Own(), {"input_ids": given})
    assert found is not None and found["logits"] is given
    assert backend.run_own("other", Own(), {"input_ids": given}) is None


def test_inputs_are_those_of_the_model() -> None:
    backend.check_names(WHO, ["a", "b"], {"b": 1, "a": 2})
    for inputs, told in (
        ({"a": 1}, "missing: b"),
        ({"a": 1, "b": 2, "c": 3}, "unknown: c"),
        ({"a": 1, "c": 3}, "missing: b; unknown: c"),
    ):
        with pytest.raises(InputError) as caught:
            backend.check_names(WHO, ["a", "b"], inputs)
        assert (caught.value.why, caught.value.remedy) == (f"wrong inputs ({told})", "pass exactly: a, b")


def test_a_value_that_is_no_array_is_refused() -> None:
    assert backend.read_input(WHO, "x", torch.ones(2), np.from_dlpack).shape == (2,)
    with pytest.raises(InputError, match="input 'x' is a str that cannot be read without a copy") as caught:
        backend.read_input(WHO, "x", "text", np.from_dlpack, "on the GPU")
    assert caught.value.remedy == "pass a numpy array, or a detached tensor on the GPU"


def test_a_file_is_told_from_another_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    assert backend.checksum_problem(file, "0" * 64) == "weights.bin is missing"
    file.write_bytes(b"of one model")
    written = backend.file_sha256(file)
    assert backend.checksum_problem(file, written) is None
    file.write_bytes(b"of another")
    assert "weights.bin is not the file written with it" in str(backend.checksum_problem(file, written))


def test_a_closed_session_says_what_to_do() -> None:
    assert isinstance(backend.closed(WHO), SessionError) and "closed" in backend.closed(WHO).why
    assert backend.described([IDS, LOGITS]) == "input_ids: int64['batch', 8], logits: float32['batch', 2]"


def test_the_machine_and_the_hooks_are_at_hand() -> None:
    assert isinstance(backend.detect(), Hardware)
    assert {info.name for info in backend.manager().infos()} >= {"torch", "onnx"}
