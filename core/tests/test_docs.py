"""The documentation says what the code does: its Python runs, its tables are the code's, its links lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import field_tables
from optimum_core import errors
from optimum_core.artifact import Manifest, ModelInfo
from optimum_core.cache import CACHE_DIR_VARIABLE
from optimum_core.hardware import detect
from optimum_core.hookspecs import Hooks
from optimum_core.plugins import DISABLED_ENV, STRICT_ENV, manager
from optimum_core.search.budget import searching_for
from optimum_core.testing.machine import Machine
from optimum_core.testing.promises import PROMISES
from optimum_core.types import Artifact, OptimizeRequest, SessionRequest, Support
from optimum_core.verify import TOLERANCES
from sentence_directories import NORMALIZE, pooling, write_directory

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *(path for path in DOCS.rglob("*.md") if DOCS / "site" not in path.parents),  # those link as pages of the site
        *(path for package in (ROOT / "core", *ROOT.glob("plugins/*")) for path in package.glob("*.md")),
    }
)
HOOKS = [name for name in vars(Hooks) if not name.startswith("_")]
ERRORS = [
    name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, errors.OptimumError)
]
VARIABLE = re.compile(r"[\"'](OPTIMUM_[A-Z_]+)[\"']")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ROOMS = [
    "generation", "measure", "models", "models/backends", "models/backends/eager_torch",
    "models/backends/onnx_files", "models/data", "models/decoders", "models/eager",
    "models/exporting", "models/inputs", "models/multimodal", "models/signatures", "models/sources",
    "models/sources/sentences", "plan", "runtime", "search", "search/quantized", "verify",
]  # fmt: skip
SOURCES = [path.as_posix() for room in ("core", "docs", "plugins", "tests") for path in (ROOT / room).rglob("*.py")]
MADE_BY_READERS = "src/optimum_reference/plugin.py"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORDS = ["[PAD]", "[UNK]", "the", "model", "is", "fast", "and", "it", "true", "so", "far", "good", "."]

#: Makes a process one where neither is installed.
ABSENT = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in ("torch", "transformers") else find(name, *rest)
"""


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    return BLOCK.findall(text)


def block_with(text: str, words: str) -> str:
    """The one block of Python that holds these words."""
    (found,) = [block for block in blocks(text) if words in block]
    return found


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the usual renderers write them."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# What is on the pages.


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_every_block_of_python_parses(path: Path) -> None:
    for block in blocks(path.read_text(encoding="utf-8")):
        ast.parse(block)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_every_import_of_ours_in_a_block_exists(path: Path) -> None:
    for block in blocks(path.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("optimum_core"):
                module = importlib.import_module(str(node.module))
                assert [item.name for item in node.names if not hasattr(module, item.name)] == [], node.module


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_every_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=page_id)
def test_every_source_file_that_a_page_names_exists(path: Path) -> None:
    for name in set(re.findall(r"`([\w./-]+\.py)`", path.read_text(encoding="utf-8"))) - {MADE_BY_READERS}:
        assert any(source.endswith(f"/{name}") for source in SOURCES), f"{name} is nowhere"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_section_with_an_example(hook: str) -> None:
    taken = list(inspect.signature(getattr(Hooks, hook)).parameters)[1:]
    text = section(read("docs", "hooks.md"), f"`{hook}({', '.join(taken)})`")
    assert all(word in text for word in ("**Takes**", "**Gives**", "**When**"))
    functions = [node for block in blocks(text) for node in ast.parse(block).body if isinstance(node, ast.FunctionDef)]
    assert [(node.name, [item.arg for item in node.args.args]) for node in functions] == [(hook, taken)]


def test_every_error_is_in_the_table_of_errors() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", section(read("docs", "concepts.md"), "Errors"), re.MULTILINE)
    assert sorted(rows) == sorted(ERRORS)


def test_the_table_of_tolerances_is_the_codes() -> None:
    text = section(read("docs", "concepts.md"), "Verification")
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    stated = {name: tuple(float(value) for value in values) for name, *values in rows}
    assert stated == {name: (item.relative, item.cosine, item.agreement) for name, item in TOLERANCES.items()}


def test_every_field_of_the_manifest_is_explained() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section(read("docs", "concepts.md"), "The manifest"), re.MULTILINE)
    names = [name for row, _ in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(["digest", *(item.name for item in dataclasses.fields(Manifest))])
    (model,) = [text for row, text in rows if row == "`model`"]
    assert re.findall(r"`(\w+)`", model) == [item.name for item in dataclasses.fields(ModelInfo)]


def test_the_tables_of_fields_are_the_dataclasses() -> None:
    assert read("docs", "fields.md") == field_tables.page(), "write it anew: python core/tests/support/field_tables.py"


def test_every_promise_of_the_kit_is_written_where_it_says() -> None:
    for promise in PROMISES.values():
        page, _, anchor = promise.where.partition("#")
        assert anchor in anchors(read("docs", page)), promise.where


def test_every_environment_variable_is_documented() -> None:
    sources = [*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    used = {name for path in sources for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    assert used >= {CACHE_DIR_VARIABLE, DISABLED_ENV, STRICT_ENV}
    assert [name for name in sorted(used) if f"| `{name}` |" not in read("docs", "quickstart.md")] == []


def test_the_ort_page_lists_every_option_with_its_default() -> None:
    options = pytest.importorskip("optimum_ort.options")
    text = section(read("docs", "backends", "ort.md"), "Options")
    stated = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    made = options.OrtOptions()
    defaults = {item.name: getattr(made, item.name) for item in dataclasses.fields(made)}
    assert list(stated) == list(defaults)
    plain = {name: value for name, value in defaults.items() if value is not None}
    assert {name: stated[name] for name in plain} == {name: f"`{value}`" for name, value in plain.items()}


def test_every_level_of_ort_is_on_its_page() -> None:
    optimize = pytest.importorskip("optimum_ort.optimize")
    rows = re.findall(r"^\| `(\w+)` \|", section(read("docs", "backends", "ort.md"), "Levels"), re.MULTILINE)
    assert sorted(rows) == sorted(optimize.LEVELS)


def test_every_gap_that_a_page_shows_is_a_test_of_the_kit() -> None:
    testing = pytest.importorskip("optimum_core.testing")
    gaps = re.findall(r'gaps = \{"(\w+)"', read("docs", "writing-a-backend.md"))
    assert gaps and [name for name in gaps if not hasattr(testing.BackendSuite, name)] == []


def test_every_decision_is_in_their_list() -> None:
    pages = sorted(path.name for path in (DOCS / "decisions").glob("[0-9]*.md"))
    assert sorted(LINK.findall(read("docs", "decisions", "README.md"))) == pages
    for name in pages:
        text = read("docs", "decisions", name)
        assert all(f"**{word}.**" in text for word in ("Context", "Decision", "Consequences")), name


# What is on the pages, run.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier with random weights, and a tokenizer beside it."""
    torch, transformers, tokenizers = map(pytest.importorskip, ("torch", "transformers", "tokenizers"))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = transformers.BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=40, type_vocab_size=1,
        )  # fmt: skip
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    splitting = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    splitting.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_input_names": ["input_ids", "attention_mask"]}
    transformers.PreTrainedTokenizerFast(tokenizer_object=splitting, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def at_work(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, a cache of the tests' own, and short searches."""
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(shared_cache))
    monkeypatch.chdir(tmp_path)
    with searching_for(4.0):
        yield tmp_path


def run(block: str) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "documented"}
    exec(compile(block, "<documentation>", "exec"), found)  # our own pages
    return found


def test_the_example_of_the_readme_runs(at_work: Path, saved: Path) -> None:
    import torch

    block = block_with(read("README.md"), "save_pretrained")
    assert len(block.splitlines()) <= 18
    (name,) = re.findall(r'^name = (".*")$', block, re.MULTILINE)
    found = run(block.replace(name, repr(str(saved))))
    fast, inputs = found["fast"], found["inputs"]
    assert fast.report.chosen.fidelity.passed and found["again"].manifest.verified
    logits = fast(**inputs).logits
    assert isinstance(logits, torch.Tensor)
    assert torch.allclose(found["again"](**inputs).logits, logits, atol=1e-5)


def test_the_example_of_a_deployment_runs_without_torch(at_work: Path, saved: Path) -> None:
    pytest.importorskip("optimum_ort")
    text = section(read("docs", "quickstart.md"), "Deploy without torch")
    run(block_with(text, 'target="ort"').replace('"owner/name"', repr(str(saved))))
    script = f"{ABSENT}{block_with(text, 'Tokenizer')}\nassert answer.logits.shape == (2, 2), answer\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder with random weights."""
    pytest.importorskip("optimum_ort")
    settings = {"prompts": {"query": "w5 "}}
    return write_directory(tmp_path_factory.mktemp("encoder") / "tiny", pooling("mean"), NORMALIZE, settings=settings)


def test_the_examples_of_embeddings_run(at_work: Path, encoder: Path, saved: Path) -> None:
    import numpy as np

    text = read("docs", "embeddings.md")
    block = block_with(text, "fast.similarity")
    (name,) = re.findall(r'^name = (".*")$', block, re.MULTILINE)
    found = run(block.replace(name, repr(str(encoder))))
    assert found["vectors"].shape == (3, 32) and found["scores"].shape == (1, 3)
    assert np.allclose(found["again"].encode(found["documents"]), found["vectors"], atol=1e-4)
    ranking = block_with(text, "reranker.rank").replace('"cross-encoder/ms-marco-MiniLM-L6-v2"', repr(str(saved)))
    with pytest.raises(errors.InputError, match="2 scores for each pair"):
        run(f"documents = {found['documents']!r}\nfrom optimum_core import accelerate\n{ranking}")
    pairs, people = [("w5 w6", "w5 w6"), ("w5", "w9 w10"), ("w7 w8", "w8 w9")], [1.0, 0.2, 0.4]
    measure = run(f"pairs, people = {pairs!r}, {people!r}\n{block_with(text, 'def spearman')}")["spearman"]
    assert -1.0 <= measure(found["fast"]) <= 1.0


def test_the_example_with_an_object_of_sentence_transformers_runs(at_work: Path, encoder: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    block = block_with(read("docs", "embeddings.md"), "from sentence_transformers")
    found = run(block.replace('"sentence-transformers/all-MiniLM-L6-v2"', repr(str(encoder))))
    assert found["vectors"].shape == (2, 32)


def test_the_arguments_of_encode_are_on_their_page() -> None:
    from optimum_core import AcceleratedModel

    rows = re.findall(r"^\| (`.*?) \|", section(read("docs", "embeddings.md"), "encode"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    taken = [
        name for name in inspect.signature(AcceleratedModel.encode).parameters if name not in ("self", "tokenizer")
    ]
    assert sorted(named) == sorted(taken)


@pytest.fixture
def reference() -> Iterator[ModuleType]:
    """The backend that the page on writing one shows."""
    block = blocks(read("docs", "writing-a-backend.md"))[0]
    assert len(block.splitlines()) <= 70
    module = ModuleType("optimum_reference")
    exec(compile(block, "<documentation>", "exec"), vars(module))  # our own pages
    manager().register(module, module.NAME)
    yield module
    manager().unregister(module.NAME)


def test_the_backend_that_the_page_writes_works(reference: ModuleType, at_work: Path) -> None:
    """It evaluates a graph operator by operator, so the model has few."""
    import torch

    from optimum_core import accelerate

    model, given = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()).eval(), {"input": torch.ones(2, 4)}
    support = reference.probe(detect())
    assert isinstance(support, Support) and (support.offers or support.limitations)
    assert manager().support("reference", detect()) == support
    fast = accelerate(model, target="reference", sample_inputs=given, budget=0)
    assert fast.backend == "reference" and fast.manifest.verified
    fast.close()
    with pytest.raises(errors.SessionError, match="closed"):
        fast(**given)
    with pytest.raises(errors.OptionError, match="speed"):
        accelerate(model, target="reference", sample_inputs=given, options={"speed": 1})


def test_the_compiler_that_the_page_writes_refuses_another_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardware: Machine
) -> None:
    """Its compiler is a copy: what is tested is what the page adds, the stamp and its check."""
    acme = ModuleType("acme")
    vars(acme).update(__version__="1.0", compile_onnx=lambda read, write, target: shutil.copy(read, write))
    monkeypatch.setitem(sys.modules, "acme", acme)
    plugin = run(block_with(read("docs", "writing-a-backend.md"), "processor_stamp(request.hardware)"))
    (tmp_path / "model.onnx").write_bytes(b"graph")
    graph = Artifact(format="onnx", path=tmp_path, files=("model.onnx",), inputs=(), outputs=())
    here, lesser = hardware(features={"avx2", "avx512f"}), hardware(features={"avx2"})
    code = plugin["optimize"](
        OptimizeRequest(backend="acme", artifact=graph, device="cpu", precision="fp32", hardware=here, output=tmp_path)
    )
    assert code.format == plugin["CODE"] and code.main_file.read_bytes() == b"graph"
    with pytest.raises(errors.SessionError, match="compiled for a processor with avx512f"):
        plugin["load_session"](SessionRequest(backend="acme", artifact=code, device="cpu", hardware=lesser))
    with pytest.raises(ImportError, match=r"acme\.session"):  # it gets as far as opening it
        plugin["load_session"](SessionRequest(backend="acme", artifact=code, device="cpu", hardware=here))


def test_the_watcher_on_the_page_of_hooks_sees_calls(at_work: Path, saved: Path) -> None:
    from optimum_core import accelerate

    audit = run(block_with(read("docs", "hooks.md"), "wrapper=True"))["audit"]
    try:
        accelerate(saved, target="torch")
    finally:
        manager().unregister("audit")
    assert ("torch", "cpu") in audit.opened


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_that_lists_its_modules_lists_all(room: str) -> None:
    folder = ROOT / "core" / "src" / "optimum_core" / room
    words = set(re.findall(r"\w+", ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""))
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules - words - {"__init__"} == set()
