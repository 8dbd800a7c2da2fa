"""Four kinds of model in one shape; what cannot be trusted is refused before anything runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core.errors import SourceError
from optimum_core.models import pretrained
from optimum_core.models.signatures.signature import describe
from optimum_core.models.sources.source import DirectorySource, MemorySource, open_source

Tiny = Callable[[str], Any]


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> Path:
    directory = tmp_path / "little bert"
    with pretrained.quiet():
        tiny("bert").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(3, 15).reshape(2, 6)}


def _change(config: Path, **settings: Any) -> None:
    described = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**described, **settings}), encoding="utf-8")


def test_a_model_of_transformers_is_seen_in_evaluation_mode_and_left_in_its_own(tiny: Tiny) -> None:
    model = tiny("bert").train()
    source = open_source(model)
    assert isinstance(source, MemorySource)
    assert (source.in_memory, source.name, source.config) == (True, "BertForSequenceClassification", model.config)
    seen = source.module()
    assert seen is not source.module()
    assert not any(part.training for part in seen.modules())
    assert all(part.training for part in model.modules())
    assert all(seen.state_dict()[name].data_ptr() == tensor.data_ptr() for name, tensor in model.state_dict().items())
    assert source.size() == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_a_plain_module_shares_its_weights() -> None:
    module = torch.nn.Linear(2, 3)
    source = open_source(module)
    assert source.module().weight.data_ptr() == module.weight.data_ptr()
    assert (source.name, source.config, source.processor, source.companions()) == ("Linear", None, None, {})


class Uncopyable(torch.nn.Linear):
    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("it holds a connection")


def test_a_module_that_cannot_be_copied_must_be_ready_as_it_is() -> None:
    module = Uncopyable(2, 3)
    with pytest.raises(SourceError, match="cannot be copied") as caught:
        open_source(module).module()
    assert "eval()" in caught.value.remedy
    assert module.training
    assert open_source(module.eval()).module() is module


def test_what_a_module_holds_and_cannot_be_copied_is_shared() -> None:
    module = torch.nn.Linear(2, 3)
    module.lock = threading.Lock()  # type: ignore[assignment]
    seen = open_source(module).module()
    assert (seen.training, module.training, seen.lock) == (False, True, module.lock)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_directory_gives_the_model_that_was_saved(
    kind: type, saved: Path, tiny: Tiny, inputs: dict[str, torch.Tensor]
) -> None:
    source = open_source(kind(saved))
    assert isinstance(source, DirectorySource)
    assert (source.in_memory, source.name) == (False, "little bert")
    with torch.no_grad():
        assert torch.equal(source.module()(**inputs).logits, tiny("bert")(**inputs).logits)
    assert source.module().get_input_embeddings().weight is source.module().get_input_embeddings().weight


def test_a_hub_id_is_fetched_and_keeps_its_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def download(repository: str, *, revision: str | None, with_code: bool) -> Path:
        asked.append((repository, revision, with_code))
        return saved

    monkeypatch.setattr(pretrained, "download", download)
    source = open_source("somebody/little-bert", revision="v2")
    assert (source.name, asked) == ("somebody/little-bert", [("somebody/little-bert", "v2", False)])
    assert type(source.module()).__name__ == "BertForSequenceClassification"


def test_opening_a_directory_reads_no_weights(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_model(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights were read")

    monkeypatch.setattr(pretrained, "read_model", read_model)
    source = open_source(saved)
    assert source.config.num_labels == 5
    assert source.fingerprint
    assert source.processor is None
    assert "_module" not in vars(source)
    with pytest.raises(AssertionError, match="weights were read"):
        source.module()


@pytest.mark.parametrize("path", ["./nowhere", "~/nowhere at all", "/nowhere/at/all", "a/b/c"])
def test_a_path_to_nothing_is_never_asked_of_the_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "download", None)
    with pytest.raises(SourceError, match="no such directory"):
        open_source(path)


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://huggingface.co/owner/name", "give the hub id: 'owner/name'"),
        ("https://huggingface.co/owner/name/tree/main", "give the hub id: 'owner/name'"),
        ("http://hf.co/name/", "give the hub id: 'name'"),
        ("s3://bucket/name", "download it, and give the directory"),
        ("file:///models/my%20model", "give the path: '/models/my model'"),
    ],
)
def test_an_address_is_no_path(address: str, remedy: str) -> None:
    with pytest.raises(SourceError, match="it is an address") as caught:
        open_source(address)
    assert caught.value.remedy == remedy


def test_a_drive_of_windows_begins_no_address() -> None:
    with pytest.raises(SourceError, match="no such directory"):
        open_source("C://models/name/of/none")


def test_a_file_is_no_directory(saved: Path) -> None:
    with pytest.raises(SourceError, match="it is a file"):
        open_source(saved / "config.json")


def test_a_directory_needs_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no config\.json"):
        open_source(tmp_path)


def test_a_broken_configuration_is_named(saved: Path) -> None:
    (saved / "config.json").write_text('{"model_type": ', encoding="utf-8")
    with pytest.raises(SourceError, match=r"config\.json is no JSON"):
        open_source(saved)


def test_an_unknown_kind_of_model_is_named(saved: Path) -> None:
    _change(saved / "config.json", model_type="never-heard-of")
    with pytest.raises(SourceError, match="never-heard-of"):
        open_source(saved).module()


def test_code_that_comes_along_is_not_run_unasked(saved: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (saved / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    _change(saved / "config.json", auto_map=names, model_type="own", architectures=["OwnModel"])
    with pytest.raises(SourceError, match="trust_remote_code=True"):
        open_source(saved)
    assert not ran.exists()


def test_code_beside_a_class_that_transformers_has_is_not_needed(saved: Path) -> None:
    _change(saved / "config.json", auto_map={"AutoModelForSequenceClassification": "own.Own"})
    assert type(open_source(saved).module()).__module__.startswith("transformers.")


def test_an_accelerated_directory_says_how_to_open_it(saved: Path) -> None:
    (saved / "optimum.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SourceError, match=r"accelerated already") as caught:
        open_source(saved)
    assert "optimum_core.load(" in caught.value.remedy


@pytest.mark.parametrize("model", [7, None, ["bert"], pytest.param(object(), id="object"), torch.ones(2)], ids=repr)
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(SourceError, match=type(model).__name__) as caught:
        open_source(model)
    assert "PreTrainedModel" in caught.value.remedy


def test_weights_that_the_checkpoint_lacks_are_no_random_numbers(saved: Path) -> None:
    _change(saved / "config.json", architectures=["BertForTokenClassification"], num_hidden_layers=2)
    with pytest.raises(SourceError, match="random numbers") as caught:
        open_source(saved).module()
    assert "bert.encoder.layer.1" in str(caught.value)


def test_a_class_that_transformers_lacks_is_no_bare_model(saved: Path) -> None:
    _change(saved / "config.json", architectures=["BertForSomethingOfTheirOwn"])
    with pytest.raises(SourceError, match="BertForSomethingOfTheirOwn, which transformers") as caught:
        open_source(saved).module()
    assert "pass the model itself" in caught.value.remedy


def test_truncated_weights_are_an_error(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SourceError, match="weights cannot be read"):
        open_source(saved).module()


def test_absent_weights_are_an_error(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="no weights"):
        open_source(saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_copied(dtype: torch.dtype, tiny: Tiny) -> None:
    model = tiny("bert").to(dtype)
    source = open_source(model)
    assert {parameter.dtype for parameter in source.module().parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.equal(source.module().classifier.weight.to(dtype), model.classifier.weight)
    assert source.module().get_input_embeddings().weight is source.module().get_input_embeddings().weight


def test_a_checkpoint_in_half_precision_is_read_in_full(tiny: Tiny, tmp_path: Path) -> None:
    with pretrained.quiet():
        tiny("bert").half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in open_source(tmp_path).module().parameters()} == {torch.float32}


def test_what_lies_beside_the_weights_travels_along(saved: Path) -> None:
    for name in ("tokenizer_config.json", "vocab.txt", "chat_template.jinja", "spiece.model"):
        (saved / name).write_text("{}", encoding="utf-8")
    for name in ("model.safetensors.index.json", "requirements.txt", "trainer_state.json", "README.md", "own.py"):
        (saved / name).write_text("{}", encoding="utf-8")
    assert set(open_source(saved).companions()) == {
        "config.json",
        "tokenizer_config.json",
        "vocab.txt",
        "chat_template.jinja",
        "spiece.model",
    }


def test_a_live_model_brings_its_processor_files_but_its_own_configuration(saved: Path) -> None:
    (saved / "vocab.txt").write_text("a", encoding="utf-8")
    with pretrained.quiet():
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert set(open_source(model).companions()) == {"vocab.txt"}
    assert open_source(model).name == "little bert"


def test_a_live_model_writes_its_configuration_from_memory(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("bert")
    model.config.id2label = {index: f"label {index}" for index in range(5)}
    open_source(model).save_companions(tmp_path)
    assert "label 4" in (tmp_path / "config.json").read_text(encoding="utf-8")


def test_a_processor_that_was_given_is_used_and_written(saved: Path, tmp_path: Path) -> None:
    class Processor:
        def save_pretrained(self, directory: Path) -> None:
            (directory / "processor.txt").write_text("mine", encoding="utf-8")

    processor = Processor()
    source = open_source(saved, processor=processor)
    assert source.processor is processor
    source.save_companions(tmp_path)
    assert (tmp_path / "processor.txt").read_text(encoding="utf-8") == "mine"


def test_nothing_is_asked_on_the_terminal_about_code_of_a_processor(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoProcessor

    asked: list[object] = []

    def read(directory: Path, **options: object) -> str:
        asked.append(options.get("trust_remote_code"))
        return "processor"

    monkeypatch.setattr(AutoProcessor, "from_pretrained", read)
    (saved / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert open_source(saved).processor == "processor"
    assert open_source(saved, trust_remote_code=True).processor == "processor"
    assert asked == [False, True]


class Tables(torch.nn.Module):
    """A layer beside tables of other types: a half that overflows, and a double with more digits than a float."""

    small: torch.Tensor
    exact: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.register_buffer("small", torch.full((4,), 300.0, dtype=torch.float16))
        self.register_buffer("exact", torch.full((4,), 1 + 1e-12, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.layer(x.to(self.layer.weight.dtype))
        return torch.where((self.small * self.small).isinf(), -found, found), self.exact - 1 + 0 * x


def test_tables_keep_their_types_beside_weights_of_32_bits() -> None:
    model, x = Tables().eval(), torch.ones(2, 4)
    torch.testing.assert_close(MemorySource(model).module()(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_doubles_are_not_narrowed_beside_weights_of_16_bits(dtype: torch.dtype) -> None:
    model, x = Tables().eval(), torch.ones(2, 4)
    model.layer.to(dtype)
    module = MemorySource(model).module()
    assert {name: str(tensor.dtype) for name, tensor in module.state_dict().items()} == {
        "small": "torch.float32", "exact": "torch.float64", "layer.weight": "torch.float32",
        "layer.bias": "torch.float32",
    }  # fmt: skip
    torch.testing.assert_close(module(x)[1], model(x)[1], rtol=0, atol=0)


def test_a_forward_that_insists_on_16_bits_is_told_from_one_that_fails() -> None:
    class Insisting(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.bfloat16())

    model = Insisting(4, 4).bfloat16().eval()
    with pytest.raises(SourceError, match=r"weights of 16 bits were widened to 32(.|\n)*self\.weight\.dtype"):
        describe(MemorySource(model).module(), name="insisting", samples={"x": torch.ones(2, 4)})
