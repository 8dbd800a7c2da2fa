"""An artifact opens without a word where it was tuned, with one elsewhere, and not where nothing reads it."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import AcceleratedModel, accelerate, artifact, load
from optimum_core.artifact import Manifest
from optimum_core.errors import (
    ArtifactError,
    OptionError,
    PrecisionError,
    SessionError,
    TunedElsewhereWarning,
    UnavailableError,
)
from optimum_core.hardware import detect
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import PluginManager
from optimum_core.runtime.absent_device import why_absent
from optimum_core.runtime.opening import open_model
from optimum_core.types import Array, Gpu, Hardware, Limitation, Offer, Session, SessionRequest, Support

IDS = np.array([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def saved(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny BERT, accelerated on this machine with options, and saved."""
    cache, place = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("saved") / "bert"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"shapes": ({"batch": 1},), "budget": 0, "cache_dir": cache}
    options = {"intra_op_threads": 1}
    with accelerate(tiny("bert"), target="ort", level="all", options=options, **settings) as fast:
        fast.save_pretrained(place)
    yield place
    torch.set_num_threads(threads)


@pytest.fixture
def edited(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the artifact whose manifest says something else, and is whole."""

    def make(**changes: Any) -> Path:
        place = tmp_path / "edited"
        shutil.copytree(saved, place)
        manifest = artifact.load(place)
        (place / "optimum.json").unlink()
        artifact.write(place, dataclasses.replace(manifest, **changes))
        return place

    return make


@pytest.fixture
def want(saved: Path) -> Any:
    with load(saved) as fast:
        return fast(input_ids=IDS).logits


def _elsewhere(**changes: Any) -> Hardware:
    here = detect()
    return dataclasses.replace(
        here, cpu=dataclasses.replace(here.cpu, model="Another 9000", usable_cores=77), **changes
    )


# Where it was tuned.


def test_on_the_machine_it_was_tuned_on_nothing_is_said(saved: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with load(saved) as fast:
            assert fast.backend == "ort"


def test_elsewhere_it_says_where_and_what_to_do_and_runs(edited: Callable[..., Path], want: Any) -> None:
    place = edited(hardware=_elsewhere())
    with (
        pytest.warns(TunedElsewhereWarning, match=r"Another 9000 with 77 cores, runs on .*retune=True") as said,
        load(place) as fast,
    ):
        np.testing.assert_allclose(fast(input_ids=IDS).logits, want, rtol=1e-4, atol=1e-5)
    assert [Path(one.filename).name for one in said] == [Path(__file__).name]


def test_a_gpu_that_is_not_here_is_another_machine(edited: Callable[..., Path]) -> None:
    place = edited(hardware=dataclasses.replace(detect(), gpus=(Gpu(vendor="nvidia", name="H9000"),)))
    with pytest.warns(TunedElsewhereWarning, match="H9000"):
        load(place).close()


def test_memory_and_kernel_do_not_make_another_machine(edited: Callable[..., Path]) -> None:
    place = edited(hardware=dataclasses.replace(detect(), memory=1, system_version="0"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(place).close()


# Which backend, device and precision.


class Acme:
    """A backend that reads ONNX and keeps what it was asked; its answers are of no interest."""

    def __init__(self, *offers: Offer, reason: str = "") -> None:
        self.offers = offers
        self.reason = reason
        self.asked: list[SessionRequest] = []

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        limits = (Limitation(what="run", reason=self.reason, remedy="pip install acme"),) if self.reason else ()
        return Support(offers=self.offers, limitations=limits)

    @hookimpl
    def load_session(self, request: SessionRequest) -> Session | None:
        if request.backend != "acme":
            return None
        self.asked.append(request)
        return AcmeSession(request)

    @hookimpl
    def infer(self, session: Session, inputs: dict[str, Array]) -> dict[str, Array] | None:
        return dict(inputs) if session.backend == "acme" else None


class AcmeSession:
    backend = "acme"

    def __init__(self, request: SessionRequest) -> None:
        self.device = request.device
        self.inputs = request.artifact.inputs
        self.outputs = request.artifact.outputs

    def close(self) -> None:
        pass


ONNX = Offer(device="cpu", loads=("onnx",), precisions=("fp32", "bf16"))


def _opened(saved: Path, acme: Acme, changes: dict[str, Any] | None = None, **settings: Any) -> SessionRequest:
    plugins = PluginManager([])
    plugins.register(acme, "acme")
    manifest: Manifest = dataclasses.replace(artifact.load(saved), **(changes or {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TunedElsewhereWarning)
        model = open_model(manifest, saved, plugins=plugins, **settings)
    assert isinstance(model, AcceleratedModel)
    return acme.asked[-1]


def test_another_backend_that_reads_the_format_takes_over_without_the_options(saved: Path) -> None:
    request = _opened(saved, Acme(ONNX))
    assert (request.backend, request.device, request.precision, dict(request.options)) == ("acme", "cpu", "fp32", {})
    assert request.artifact.main_file.is_file()


def test_the_device_it_was_tuned_on_goes_first(saved: Path) -> None:
    gpu = dataclasses.replace(ONNX, device="gpu")
    assert _opened(saved, Acme(gpu, ONNX)).device == "cpu"
    assert _opened(saved, Acme(ONNX, gpu), {"device": "gpu:1"}).device == "gpu"
    assert _opened(saved, Acme(ONNX, gpu), {"device": "gpu:1", "backend": "acme"}).device == "gpu:1"


def test_a_precision_that_is_not_here_falls_back_to_full(saved: Path) -> None:
    assert _opened(saved, Acme(ONNX), {"precision": "bf16"}).precision == "bf16"
    assert _opened(saved, Acme(ONNX), {"precision": "fp16"}).precision == "fp32"


def test_options_are_handed_on_where_they_were_tuned_for_or_stated(saved: Path) -> None:
    options = {"session_options": {"fast": True}}
    assert dict(_opened(saved, Acme(ONNX), {"backend": "acme", **options}).options) == {"fast": True}
    assert dict(_opened(saved, Acme(ONNX), options).options) == {}
    assert dict(_opened(saved, Acme(ONNX), options, options={"slow": 1}).options) == {"slow": 1}


def test_streams_are_asked_for_where_there_are_several(saved: Path) -> None:
    assert _opened(saved, Acme(ONNX)).streams is None
    assert _opened(saved, Acme(ONNX), {"streams": 4}).streams == 4


def test_where_nothing_reads_it_the_message_says_why_and_what_to_install(saved: Path) -> None:
    other = Offer(device="cpu", loads=("acme",))
    with pytest.raises(UnavailableError, match=r"'onnx' for backend 'ort'(.|\n)*pip install optimum-ort"):
        _opened(saved, Acme(other))
    broken = Acme(reason="its library is missing")
    with pytest.raises(UnavailableError, match=r"its library is missing \(pip install acme\)"):
        _opened(saved, broken, {"backend": "acme"})


class Narrow(Acme):
    """A backend that cannot open this model in bf16."""

    @hookimpl
    def load_session(self, request: SessionRequest) -> Session | None:
        if request.precision == "bf16":
            raise PrecisionError("backend 'acme'", "its compiler fails in bf16", "use fp32")
        return super().load_session(request)


def test_a_precision_that_the_backend_refuses_here_is_replaced_by_fp32_and_told(saved: Path) -> None:
    manifest = dataclasses.replace(artifact.load(saved), precision="bf16")
    plugins, acme = PluginManager([]), Narrow(ONNX)
    plugins.register(acme, "acme")
    with pytest.warns(TunedElsewhereWarning, match="tuned to compute in bf16, and does so in fp32 here: its compiler"):
        model = open_model(manifest, saved, plugins=plugins, target="acme")
    assert repr(model) == "<accelerated BertForSequenceClassification: acme on cpu, fp32, verified on ort alone>"
    assert acme.asked[-1].precision == "fp32"
    with pytest.raises(PrecisionError, match="its compiler fails"):
        open_model(manifest, saved, plugins=plugins, target="acme", is_stated=True)


def test_a_target_by_name(saved: Path) -> None:
    gpu = dataclasses.replace(ONNX, device="gpu")
    assert _opened(saved, Acme(ONNX, gpu), target="acme:GPU:1").device == "gpu:1"
    assert _opened(saved, Acme(ONNX, gpu), target="acme").device == "cpu"
    with pytest.raises(UnavailableError, match="'zeta'"):
        _opened(saved, Acme(ONNX), target="zeta")


def test_options_of_ones_own(saved: Path, want: Any) -> None:
    with load(saved, options={"intra_op_threads": 2}) as fast:
        np.testing.assert_allclose(fast(input_ids=IDS).logits, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="unknown option 'no_such'"):
        load(saved, options={"no_such": 1})


def test_a_precision_of_ones_own_is_asked_for(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = Acme(ONNX)
    plugins = PluginManager([])
    plugins.register(acme, "acme")
    monkeypatch.setattr("optimum_core.plugins.manager", lambda: plugins)
    with pytest.warns(
        TunedElsewhereWarning, match="tuned for backend 'ort', which is not installed; 'acme' runs"
    ) as said:
        fast = load(saved, precision="bf16")
    assert [Path(one.filename).name for one in said] == [Path(__file__).name]
    assert repr(fast) == "<accelerated BertForSequenceClassification: acme on cpu, bf16, verified on ort alone>"
    assert fast.backend == "acme"
    load(saved, target="acme").close()  # which says that it is meant
    assert acme.asked[0].precision == "bf16"


class Unable:
    """A backend that reads ONNX, though not this file."""

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        return Support(offers=(ONNX,))

    @hookimpl
    def load_session(self, request: SessionRequest) -> Session | None:
        if request.backend != "able":
            return None
        raise SessionError("backend 'able'", "operator FusedMatMul is unknown", "export the model again")

    @hookimpl
    def infer(self, session: Session, inputs: dict[str, Array]) -> dict[str, Array] | None:
        return None


def test_where_one_backend_does_not_open_the_file_the_next_does(saved: Path) -> None:
    plugins = PluginManager([])
    plugins.register(Unable(), "able")
    plugins.register(Acme(ONNX), "acme")
    with pytest.warns(TunedElsewhereWarning, match="'acme' runs it instead") as said:
        assert open_model(artifact.load(saved), saved, plugins=plugins).backend == "acme"
    assert len(said) == 1


def test_a_backend_that_builds_for_other_machines_stands_in_last(saved: Path) -> None:
    plugins = PluginManager([])
    plugins.register(Acme(dataclasses.replace(ONNX, device="sm_90", proof="none")), "abroad")
    plugins.register(Acme(dataclasses.replace(ONNX, device="gpu")), "acme")
    with pytest.warns(TunedElsewhereWarning, match="'acme' runs it instead"):
        assert open_model(artifact.load(saved), saved, plugins=plugins).backend == "acme"


def test_where_none_opens_the_file_the_error_names_the_backend_that_it_is_for(saved: Path) -> None:
    plugins = PluginManager([])
    plugins.register(Unable(), "able")
    with pytest.raises(UnavailableError, match=r"for backend 'ort', .*able .* not this file: operator Fused") as caught:
        open_model(artifact.load(saved), saved, plugins=plugins)
    assert caught.value.remedy == "pip install optimum-ort"
    with pytest.raises(SessionError, match="FusedMatMul"):
        open_model(artifact.load(saved), saved, plugins=plugins, target="able")


# What it takes to begin.


def _imported(code: str, *arguments: Path) -> set[str]:
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_the_name_load_costs_next_to_nothing() -> None:
    found = _imported("from optimum_core import load")
    assert not found & {"numpy", "msgspec", "psutil", "pluggy", "importlib_metadata", "subprocess", "logging"}
    assert {name for name in found if name.startswith("optimum_core.")} == {
        "optimum_core.runtime",
        "optimum_core.runtime.loading",
    }


def test_opening_and_calling_imports_what_it_needs_alone(saved: Path) -> None:
    code = "import numpy\nfrom optimum_core import load\nload(sys.argv[1])(input_ids=numpy.array([[5, 6, 7]]))"
    found = _imported(code, saved)
    assert "onnxruntime" in found
    unwanted = {
        "torch",
        "transformers",
        "onnx",
        "rich",
        "typer",
        "huggingface_hub",
        "filelock",
        "cpuinfo",
        "tokenizers",
    }
    assert not found & {*unwanted, "concurrent.futures.thread", "optimum_core.measure", "optimum_core.search"}


# Where it lies.


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    for path in (3, None, b"out"):
        with pytest.raises(ArtifactError, match=r"is no path(.|\n)*pathlib"):
            load(path)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="there is no such directory"):
        load("/nonexistent")
    with pytest.raises(ArtifactError, match="there is no such directory"):
        load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="there is no such directory"):
        load("./nowhere")


def test_a_small_file_that_changed_is_found_in_any_case(saved: Path, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(saved, place)
    file = place / "config.json"
    file.write_bytes(file.read_bytes().replace(b" ", b"\t", 1))
    load(place).close()  # which says the same
    file.write_bytes(file.read_bytes().replace(b'"bert"', b'"BERT"', 1))
    for verify_files in (True, False):
        with pytest.raises(ArtifactError, match=r"config\.json"):
            load(place, verify_files=verify_files)


def test_a_path_is_named_as_text(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save_model

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    save_model(helper.make_model(graph), tmp_path / "some.onnx")
    with pytest.raises(ArtifactError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"model {str(tmp_path)!r}: ")


def test_what_stands_against_running_is_the_limitation_of_sessions() -> None:
    there = Offer(device="sm_89", loads=("onnx",), proof="none")
    limits = (
        Limitation(what="run the builder", reason="no tool", remedy="add one", hook="optimize"),
        Limitation(what="open engines", reason="no GPU", remedy="find one", hook="load_session"),
    )
    assert why_absent(Support(offers=(there,), limitations=limits), "sm_89") == ("no GPU", "find one")
    told = why_absent(Support(offers=(there,), limitations=limits[:1]), "sm_89")
    assert told is not None and told[0] == "it was built for another machine"
    assert why_absent(Support(offers=(Offer(device="cpu"),), limitations=limits), "cpu") is None
