# serve · test · drills · soak · check · format · docs · bench · quality · peers · load · image ·
# clean; plain `make`: check, test.

PORT ?= 8000
VAR ?= var
DOCKER ?= docker
TRAIN_ARGS ?=
BENCH_ARGS ?=
TEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder
QUALITY_ARGS ?=
LOAD_ARGS ?= --events $(VAR)/data/events.parquet

# The first Python on PATH that is new enough; `make PYTHON=…` names another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13; do \
	$$name -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$name && break; done)

BIN := .venv/bin
ROOMS := service models cache loadtest
CODE := $(wildcard $(ROOMS) tests requirements)
CACHE := lmdb:$(VAR)/cache
PEERS := fastapi mosec litserve bentoml kserve

.PHONY: all serve test drills soak check format docs bench quality peers load image clean
.DELETE_ON_ERROR:

all: check test

serve: $(VAR)/cache/.done
	exec $(BIN)/marmot serve --bundle $(VAR)/bundle --cache $(CACHE) --port $(PORT)

# Drills work against the clock, so nothing runs beside them; all others on every core, the tests of
# a file together. TEST_ARGS='-n 0' is one process.
test: .venv/.dev
	$(BIN)/python -m pytest tests/drills
	$(BIN)/python -m pytest $(TEST_ARGS) --ignore=tests/drills

# What happens when things go wrong, at full length; the outcomes are tables.
drills: .venv/.dev
	$(BIN)/python -m pytest tests/drills -m "not soak"

# Ten minutes with a fault every 20 s; SOAK_S=3600 for longer, SOAK_LOAD=0.7 of what can be served.
soak: .venv/.dev
	$(BIN)/python -m pytest tests/drills/test_soak.py -m soak

check: .venv/.dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -r -ll $(ROOMS)
	@said=$$($(BIN)/pip-audit --disable-pip --no-deps -r requirements/dev.txt 2>&1) || \
		if echo "$$said" | grep -q '^Found'; then echo "$$said"; exit 1; \
		else echo 'pip-audit: its service does not answer from here, skipped'; fi

format: .venv/.dev
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

# The site, in build/site.
docs: .venv/.dev
	$(BIN)/zensical build --strict

# With the development tools comes a Redis, where none is on PATH. BENCH_ARGS adds to it.
bench: $(VAR)/bundle/manifest.json .venv/.dev
	$(BIN)/marmot bench --bundle $(VAR)/bundle --store both --json $(BENCH_ARGS)

# The comparison of docs/numbers.md, three seeds: hours. QUALITY_ARGS=--quick shows that it works.
quality: $(VAR)/data/.done
	$(BIN)/marmot compare --events $(VAR)/data/events.parquet --items $(VAR)/data/items.parquet \
		--families din,sim,search,stca,full,vista,elastic $(if $(QUALITY_ARGS),,--resume $(VAR)/quality) \
		$(QUALITY_ARGS)

# Other servers for `marmot bench --peers`, each in an environment of its own; one that cannot be
# installed does not keep the others out.
peers:
	$(MAKE) -k $(PEERS:%=$(VAR)/peers/%/.done)

# One minute against what `make serve` started.
load: $(VAR)/data/.done
	$(BIN)/marmot load --url http://127.0.0.1:$(PORT) --duration-s 60 --rate 200 --json $(LOAD_ARGS)

image:
	$(DOCKER) build -t marmot .

clean:
	rm -rf .venv $(VAR) build .cache *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Every product below is made once. Its stamp lies inside it and is written last, so what was
# interrupted is made again, and what was deleted too.

$(VAR)/data/.done: | .venv/.serve
	$(BIN)/marmot data ml-100k --out $(VAR)/data
	touch $@

$(VAR)/bundle/manifest.json: $(VAR)/data/.done
	$(BIN)/marmot train --events $(VAR)/data/events.parquet --items $(VAR)/data/items.parquet \
		--out $(VAR)/bundle $(TRAIN_ARGS)

$(VAR)/cache/.done: $(VAR)/bundle/manifest.json
	$(BIN)/marmot backfill --bundle $(VAR)/bundle --events $(VAR)/data/events.parquet \
		--cache $(CACHE)
	touch $@

# Every package is pinned, what it says of others is not asked: see loadtest/peers/bentoml.
$(VAR)/peers/%/.done: loadtest/peers/%/requirements.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install -q --no-compile --no-deps -r $<
	touch $@

# Bytecode is left to the first import: compiling all of torch takes longer than using it.
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q --no-compile

.venv/.serve: requirements/serve.txt requirements/train.txt pyproject.toml
	@$(if $(PYTHON),,echo 'Marmot needs Python 3.11 or newer: make PYTHON=/path/to/python3.11' >&2; exit 1)
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo '$(PYTHON) is older than Python 3.11' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements/serve.txt -r requirements/train.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

.venv/.dev: .venv/.serve requirements/load.txt requirements/plots.txt requirements/otel.txt \
		requirements/docs.txt requirements/dev.txt
	$(PIP) -r requirements/dev.txt
	touch $@
