"""Texts become vectors as sentence-transformers defines them, from an artifact alone, whatever holds the texts."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import AcceleratedModel, accelerate, load
from optimum_core.artifact.embedding import EmbeddingSettings
from optimum_core.errors import InputError, UnavailableError
from optimum_core.models.data.texts import cut_length, read_texts
from optimum_core.runtime import streaming, vectors
from optimum_core.runtime.embedding import chosen_prompt
from sentence_directories import NORMALIZE, TEXTS, by_hand, dense, pooling, write_directory

LIMIT = 20
SETTINGS = {
    "prompts": {"query": "w5 w6 ", "passage": "w7 "},
    "similarity_fn_name": "dot",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sentences") / "encoder"
    modules = (pooling("mean"), NORMALIZE)
    return write_directory(place, *modules, settings=SETTINGS, lengths={"max_seq_length": LIMIT, "do_lower_case": True})


@pytest.fixture(scope="module")
def fast(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AcceleratedModel]:
    """The artifact, accelerated, saved and loaded again."""
    cache, place = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("saved") / "out"
    with accelerate(directory, target="ort", level="all", shapes=((1, 8),), budget=0, cache_dir=cache) as made:
        assert made.task == "sentence-similarity"
        assert [spec.name for spec in made.manifest.outputs] == ["token_embeddings", "sentence_embedding"]
        assert made.report is not None and any("sentence-transformers" in note for note in made.report.notes)
        made.save_pretrained(place)
    with load(place) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def want(directory: Path) -> np.ndarray[Any, Any]:
    """The vectors of `TEXTS`, by hand: lower-cased, cut, averaged over their tokens, of length 1."""
    means = [tokens.mean(dim=0) for tokens in by_hand(directory, [text.lower() for text in TEXTS], LIMIT)]
    return np.stack([(mean / mean.norm()).numpy() for mean in means])


def _close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-3, atol=1e-4)


def test_texts_are_what_they_are_by_hand(fast: AcceleratedModel, want: np.ndarray[Any, Any]) -> None:
    found = fast.encode(TEXTS)
    assert found.dtype == np.float32
    _close(found, want)


@pytest.mark.parametrize("form", [tuple, iter, np.array, lambda texts: (text for text in texts)])
@pytest.mark.parametrize("size", [1, 3])
def test_any_container_of_texts_in_any_batches(form: Any, size: int, fast: AcceleratedModel, want: Any) -> None:
    _close(fast.encode(form(TEXTS), batch_size=size), want)


def test_one_text_gives_one_vector(fast: AcceleratedModel, want: Any) -> None:
    for one in (TEXTS[0], np.str_(TEXTS[0]), np.array(TEXTS[0])):
        _close(fast.encode(one), want[0])


def test_no_text_gives_an_empty_array(fast: AcceleratedModel) -> None:
    assert fast.encode([]).shape == (0,)
    assert fast.encode(iter([]), convert_to_tensor=True).shape == (0,)


def test_order_is_kept_over_many_windows(fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(f"w{4 + (7 * n + k) % 100}" for k in range(n % 11)) for n in range(40)]
    whole = fast.encode(texts)
    monkeypatch.setattr(streaming, "_ITEMS", 4)
    monkeypatch.setattr(streaming, "_BATCHES", 2)
    _close(fast.encode(texts, batch_size=3), whole)
    _close(fast.encode(iter(texts), batch_size=3), whole)


def test_an_endless_iterator_is_read_window_by_window(fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_ITEMS", 4)
    monkeypatch.setattr(streaming, "_BATCHES", 1)
    read = 0

    def texts() -> Iterator[Any]:
        nonlocal read
        for text in itertools.cycle(["w5 w6", "w7"]):
            read += 1
            yield text if read < 10 else 5

    with pytest.raises(InputError, match="one of the texts is int"):
        fast.encode(texts(), batch_size=2)
    assert read == 12, "three windows of four"


def test_prompts_by_name_and_by_text(fast: AcceleratedModel) -> None:
    behind = fast.encode(["w5 w6 w9"])
    _close(fast.encode(["w9"], prompt_name="query"), behind)
    _close(fast.encode(["w9"], prompt="w5 w6 "), behind)
    _close(fast.encode(["w9"], prompt_name="passage", prompt="w5 w6 "), behind)
    _close(fast.encode_query(["w9"]), behind)
    _close(fast.encode_document(["w9"]), fast.encode(["w7 w9"]))
    _close(fast.encode_document(["w9"], prompt=""), fast.encode(["w9"]))
    with pytest.raises(InputError, match=r"no prompt named 'other'(.|\n)*its prompts are 'query', 'passage'"):
        fast.encode(["w9"], prompt_name="other")


def test_the_default_prompt_is_that_of_a_call_without_one() -> None:
    settings = EmbeddingSettings(prompts={"query": "q: ", "none": ""}, default_prompt_name="query")
    given = ((None, None), ("", None), (None, "none"), ("x", "query"))
    chosen = [chosen_prompt(settings, prompt, name, "m") for prompt, name in given]
    assert chosen == ["q: ", "", "", "x"]


def test_normalized_twice_is_normalized_once(fast: AcceleratedModel, want: Any) -> None:
    once = fast.encode(TEXTS, normalize_embeddings=True)
    _close(once, want)
    _close(fast.encode(TEXTS, normalize=True), once)
    short = fast.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    _close(short, want[:, :5] / np.linalg.norm(want[:, :5], axis=1, keepdims=True))


def test_tokens_of_every_text(fast: AcceleratedModel, directory: Path) -> None:
    found = fast.encode(TEXTS, output_value="token_embeddings")
    for mine, theirs in zip(found, by_hand(directory, [text.lower() for text in TEXTS], LIMIT), strict=True):
        _close(mine, theirs)
    both = fast.encode(TEXTS[0], output_value=None)
    _close(both["token_embeddings"], found[0])
    _close(both["sentence_embedding"], fast.encode(TEXTS[0]))


def test_tensors_where_they_are_asked_for(fast: AcceleratedModel, want: Any) -> None:
    whole = fast.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(whole, torch.Tensor)
    _close(whole, want)
    rows = fast.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list) and all(isinstance(row, torch.Tensor) for row in rows)
    _close(torch.stack(rows), want)


def test_fewer_bits(fast: AcceleratedModel, want: Any) -> None:
    signs = (want > 0).astype(np.uint8)
    packed = fast.encode(TEXTS, precision="ubinary")
    assert np.array_equal(np.unpackbits(packed, axis=1), signs)
    assert np.array_equal(fast.encode(TEXTS, precision="binary").astype(int) + 128, packed)
    levels = fast.encode(TEXTS, precision="uint8").astype(int)
    assert levels.min() == 0 and levels.max() == 255
    steps = (want.max(axis=0) - want.min(axis=0)) / 255
    assert np.abs(levels * steps + want.min(axis=0) - want).max() <= 1.1 * steps.max()
    assert np.array_equal(fast.encode(TEXTS, precision="int8").astype(int) + 128, levels)
    with pytest.raises(InputError, match="there is one"):
        fast.encode("w5", precision="int8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"precision": "float8"}, "precision 'float8' is unknown"),
        ({"output_value": "words"}, "output_value 'words' is unknown"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"device": "cuda:0"}, "device is 'cuda:0', and it runs on cpu"),
        ({"pool": {}}, "a pool of processes came"),
        ({"prompt": 5}, "prompt is 5"),
    ],
)
def test_an_argument_that_does_not_fit(arguments: dict[str, Any], told: str, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=told):
        fast.encode(TEXTS, **arguments)


@pytest.mark.parametrize("given", [None, 5, b"text", {"text": "w5"}, [5], [["w5", "w6", "w7"]], {"w5", "w6"}])
def test_what_is_no_text(given: Any, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=r"pass texts|a list"):
        fast.encode(given)


class Table:
    """A table as of pandas: its items are the names of its columns."""

    columns = ("text",)

    def __len__(self) -> int:
        return len(TEXTS)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class Column:
    """A column as of pyarrow: its items are scalars of its own."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __iter__(self) -> Iterator[Any]:
        return iter([object()] * len(TEXTS))

    def to_pylist(self) -> list[str]:
        return TEXTS


def test_a_table_is_no_texts_and_a_column_is(fast: AcceleratedModel) -> None:
    for call in (fast.encode, fast.map, fast.tokenize):
        with pytest.raises(InputError, match=r"pass a list|pass one column"):
            call({"w5", "w6"})
        with pytest.raises(InputError, match="pass one column"):
            call(Table())
    _close(fast.encode(Column()), fast.encode(TEXTS))
    _close(fast.map(Column()).sentence_embedding, fast.map(TEXTS).sentence_embedding)


@pytest.mark.parametrize("missing", [None, float("nan"), 5])
def test_what_is_no_text_among_texts_is_named(missing: Any, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=f"an item is {type(missing).__name__}"):
        fast.map(["w5", missing])


def test_half_of_a_surrogate_pair_is_named(
    fast: AcceleratedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (fast.encode, fast.map):
        with pytest.raises(InputError, match=r"text 'w6 \\ud83d': it holds half"):
            call(["w5", "w6 \ud83d"])
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else find(name))
    with pytest.raises(InputError, match=r"text 'w6 \\ud83d': it holds half"):
        read_texts(directory, "model").encode([("w5", "w6 \ud83d")])


def test_it_tells_its_settings(fast: AcceleratedModel) -> None:
    assert fast.max_seq_length == LIMIT
    assert cut_length(fast.directory / "nothing") is None
    assert (fast.default_prompt_name, fast.truncate_dim) == (None, None)
    assert fast.encode(TEXTS, precision=None).dtype == np.float32
    with pytest.raises(AttributeError, match=r"no 'start_multi_process_pool'\n.*all cores of this process"):
        _ = fast.start_multi_process_pool


def test_similarity_by_the_function_that_the_model_states(fast: AcceleratedModel, want: Any) -> None:
    _close(fast.similarity(want[:2], want), want[:2] @ want.T)
    assert isinstance(fast.similarity(torch.from_numpy(want), torch.from_numpy(want)), torch.Tensor)
    _close(fast.similarity_pairwise(want, want), np.ones(len(want)))
    with pytest.raises(InputError, match="5 and 32 dimensions"):
        fast.similarity(want[:, :5], want)


@pytest.mark.parametrize("name", ["cosine", "euclidean", "manhattan"])
def test_other_functions_of_similarity(name: str) -> None:
    a, b = torch.randn(4, 7), torch.randn(3, 7)
    theirs = {
        "cosine": torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1),
        "euclidean": -torch.cdist(a, b, p=2.0),
        "manhattan": -torch.cdist(a, b, p=1.0),
    }
    _close(vectors.similarity(name, a, b, "m"), theirs[name])
    _close(vectors.pairwise(name, a[:3], b, "m"), theirs[name][:3].diagonal())


def test_the_tokens_of_a_prompt_are_not_pooled_where_the_model_says_so(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = write_directory(
        tmp_path / "m", pooling("mean", include_prompt=False), settings=SETTINGS, lengths={"max_seq_length": LIMIT}
    )
    cache = tmp_path_factory.mktemp("cache")
    with accelerate(directory, target="ort", level="all", shapes=((1, 8),), budget=0, cache_dir=cache) as fast:
        texts = ["w9 w8", "w50 w51 w52 w53"]
        tokens = by_hand(directory, [f"w5 w6 {text}" for text in texts], LIMIT)
        _close(fast.encode(texts, prompt_name="query"), np.stack([rows[3:].mean(dim=0).numpy() for rows in tokens]))
        _close(fast.encode(texts), np.stack([rows.mean(dim=0).numpy() for rows in by_hand(directory, texts, LIMIT)]))
        with pytest.raises(InputError, match=r"the pooling leaves out the prompt that is there(.|\n)*right"):
            fast.tokenize(texts, prompt="w5 w6 ", truncation="left")
        assert len(fast.tokenize(texts, truncation="left")) == 2


def test_one_that_stays_eager_is_saved_with_all_of_its_modules(tmp_path: Path) -> None:
    modules = (pooling("cls", "lasttoken"), ("Dense", *dense(64, 8)), NORMALIZE)
    directory = write_directory(tmp_path / "m", *modules, settings=SETTINGS)
    with accelerate(directory, target="torch", shapes=((1, 8),), budget=0, cache_dir=tmp_path / "cache") as eager:
        eager.save_pretrained(tmp_path / "out")
        with load(tmp_path / "out") as again:
            found = again.encode(TEXTS, prompt_name="query")
        assert found.shape == (len(TEXTS), 8)
        _close(found, eager.encode(TEXTS, prompt_name="query"))


WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
gone = ("torch", "transformers", "sentence_transformers")
PathFinder.find_spec = lambda name, *rest: None if name.split(".")[0] in gone else find(name, *rest)
import numpy, optimum_core
fast = optimum_core.load(sys.argv[1])
texts = numpy.load(sys.argv[2])["texts"]
plain = fast.encode(texts)
numpy.savez(sys.argv[3], found=fast.encode(texts, prompt_name="query"), similar=fast.similarity(plain, plain))
try:
    fast.encode("w5", convert_to_tensor=True)
except optimum_core.errors.UnavailableError:
    print("refused")
assert not any(name in sys.modules for name in gone)
"""


def test_without_torch_and_transformers(fast: AcceleratedModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "texts.npz", texts=np.array(TEXTS))
    script = WITHOUT_TORCH.replace("import numpy, optimum_core", "import numpy, optimum_core, optimum_core.errors")
    files = (str(fast.directory), str(tmp_path / "texts.npz"), str(tmp_path / "found.npz"))
    command = [sys.executable, "-c", script, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"]
    with np.load(tmp_path / "found.npz") as found:
        _close(found["found"], fast.encode(TEXTS, prompt_name="query"))
        _close(found["similar"], fast.similarity(fast.encode(TEXTS), fast.encode(TEXTS)))


def test_a_file_put_into_an_artifact_later_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 4}', encoding="utf-8")
    assert EmbeddingSettings.read(tmp_path).max_seq_length == 4
    (tmp_path / "optimum.json").write_text('{"files": {"config.json": {}}}', encoding="utf-8")
    assert EmbeddingSettings.read(tmp_path).max_seq_length is None


def test_tensors_without_torch(fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from optimum_core.runtime import embedding_face

    monkeypatch.setattr(embedding_face, "present", lambda package: False)
    with pytest.raises(UnavailableError, match="tensors were asked for"):
        fast.encode("w5", convert_to_tensor=True)


def test_map_keeps_the_outputs_that_are_named(fast: AcceleratedModel, want: Any) -> None:
    found = fast.map((text for text in TEXTS), outputs=["sentence_embedding"])
    assert list(found) == ["sentence_embedding"]
    _close(found.sentence_embedding, want)
    with pytest.raises(InputError, match=r"no output 'logits'(.|\n)*token_embeddings, sentence_embedding"):
        fast.map(TEXTS, outputs=["logits"])


def test_pairs_of_texts_are_one_sequence(fast: AcceleratedModel) -> None:
    pairs = [("w5 w6", "w7"), ("w8", "w9 w10 w11")]
    tokenizer = json.loads((fast.directory / "tokenizer.json").read_text())
    assert tokenizer["post_processor"]["pair"]
    found = fast.map(pairs, outputs=["token_embeddings"]).token_embeddings
    ids, types = np.array([[2, 5, 6, 3, 7, 3]]), np.array([[0, 0, 0, 0, 1, 1]])
    _close(found[0], fast(input_ids=ids, token_type_ids=types).token_embeddings[0])
    with pytest.raises(InputError, match="some items are pairs of texts and some are texts"):
        fast.map([*pairs, "w5"])


def test_it_says_how_many_dimensions_it_gives(fast: AcceleratedModel) -> None:
    assert fast.get_embedding_dimension() == fast.get_sentence_embedding_dimension() == 32


def test_it_works_in_a_pipeline_of_transformers(fast: AcceleratedModel, directory: Path) -> None:
    from transformers import AutoTokenizer, pipeline
    from transformers.utils import ModelOutput

    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert isinstance(fast(**tokenizer(TEXTS[0], return_tensors="pt")), ModelOutput)
    found = pipeline("feature-extraction", model=fast, tokenizer=tokenizer)(TEXTS[0])
    _close(found[0], fast.encode(TEXTS[0], output_value="token_embeddings"))


def test_what_gives_vectors_ranks_nothing(fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match="no logits of whole texts"):
        fast.rank("w5", ["w6"])
