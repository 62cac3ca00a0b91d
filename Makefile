# Two commands matter: `make demo` and `make test`. Each installs what it needs first.

UV := $(shell command -v uv || echo .uv/bin/uv)
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK := locks/development.txt

.PHONY: help install demo up down test test-crash test-faults test-long test-platforms test-deploy coverage lint lint-deploy docs bench lock clean

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## the environment in .venv, exactly as locked

demo: $(INSTALLED) ## the whole life of a feature, in three minutes
	@$(BIN)/skewless demo

up: $(INSTALLED) ## servers, stream worker, refresh loop and HTTP server, until Ctrl-C
	@$(BIN)/skewless up

down: $(INSTALLED) ## stops what `make up` runs
	@$(BIN)/skewless down

test: $(INSTALLED) ## all tests, on real servers
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-crash: $(INSTALLED) ## the long loops: 200 killed workers, each server away for a minute
	$(BIN)/pytest tests/streaming/crash_long.py tests/streaming/outage_long.py -s

test-faults: $(INSTALLED) ## server and stream under attack, and the whole kill matrix: hours
	HOSTILE=200000 $(BIN)/pytest tests/serving/test_hostile.py tests/serving/test_bounds.py \
		tests/serving/test_supervisor.py tests/serving/test_tokens_attacked.py -s
	$(BIN)/pytest tests/faults/kill_matrix_long.py -s
	HOSTILE_MESSAGES=100000 LETTERS=1000000 $(BIN)/pytest tests/faults/test_hostile_messages.py \
		tests/faults/million_letters_long.py tests/faults/full_servers_long.py \
		tests/faults/clock_jumps_long.py -s

test-long: $(INSTALLED) ## more examples for the tests that generate them; mutated messages; the shop's README
	EXAMPLES=400 $(BIN)/pytest -n 2 --dist loadfile tests/serving/test_document.py \
		tests/serving/test_bad_input.py tests/serving/test_like_stock.py
	$(BIN)/pytest tests/repositories/shop_readme_long.py
	HOSTILE_MESSAGES=100000 $(BIN)/pytest tests/streaming/decoding/test_hostile_formats.py
	EXAMPLES=40 $(BIN)/pytest tests/generated

test-platforms: $(INSTALLED) ## the end-to-end suite of every platform in its long form, and the demos
	$(BIN)/pytest tests/platforms/platforms_long.py -s

test-deploy: $(INSTALLED) ## each role from its own lock, with a container's rights; needs root
	$(BIN)/pytest tests/deploy/roles_long.py -s

coverage: $(INSTALLED) ## branch coverage of all tests, children included; slower than `make test`
	@rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(INSTALLED) ## ruff, mypy, the import contract, the SQL and its portability, no domain's words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar feature_repo extensions examples
	$(BIN)/python -m extensions.engines.construct_lint feature_repo examples extensions/templates
	$(BIN)/python -m tests.domain_words

lint-deploy: $(INSTALLED) ## the Helm chart and the Compose files, by helm, kubeconform, Compose's loader; needs Go
	$(BIN)/python -m tests.deploy.chart_lint $(RENDER)

docs: $(INSTALLED) ## the documentation as a site, in build/docs/html
	$(BIN)/python docs/site/build.py build/docs

bench: $(INSTALLED) ## all benchmarks, and docs/benchmarks.md from their results
	$(BIN)/python -m benchmarks.all

# uv, where the machine has none: from the package index, for this folder only.
.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv

# Compiled here, since some machines tell Python to write no bytecode: there each of the many
# processes that the demo and the tests start would compile Feast again, for ten seconds.
$(INSTALLED): $(LOCK) pyproject.toml | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing .venv
	$(UV) pip sync --quiet --compile-bytecode --require-hashes $(LOCK)
	$(UV) pip install --quiet --no-deps --editable .
	@touch $@

# The locks name versions and hashes but no index, so that they hold behind any mirror. uv
# compiles the groups of managed projects only, hence the copy without that line. A role's lock is
# production's without what the role never imports, and without what only that would bring.
lock: ## resolve the dependencies again
	@mkdir -p build/lock locks
	@grep -v '^managed = ' pyproject.toml > build/lock/pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 build/lock/pyproject.toml -o locks/production.txt
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 build/lock/pyproject.toml \
		--extra local --extra lake --extra otel --group build/lock/pyproject.toml:dev \
		-o $(LOCK)
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 build/lock/pyproject.toml --extra lake \
		--constraints locks/production.txt -o locks/lake.txt
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 build/lock/pyproject.toml --extra otel \
		--constraints locks/production.txt -o locks/otel.txt
	@for role in serving streaming monitoring; do \
		$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
			--python-version 3.11 build/lock/pyproject.toml --constraints locks/production.txt \
			--excludes locks/$$role.excludes.txt -o locks/$$role.txt || exit 1; \
	done

clean: ## all that `make` made, but not the data in .skewless
	rm -rf .venv .uv build .pytest_cache .mypy_cache .ruff_cache
