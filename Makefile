# The README's two commands are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
MIRROR := $(shell scripts/debian-mirror)

ifndef KEYTURN_MIRROR
ifneq ($(MIRROR),)
export KEYTURN_MIRROR := $(MIRROR)
endif
endif

.PHONY: demo test bench vectors lock-requirements clean

demo:
	@scripts/setup demo
	@$(VENV)/bin/keyturn demo $(DEMO_ARGS)

test:
	@scripts/setup test
	@scripts/run-tests $(PYTEST_ARGS)

bench:
	@scripts/setup bench
	@$(VENV)/bin/python benchmarks/build.py $(BENCH_ARGS)
	@$(VENV)/bin/python benchmarks/boot.py $(BOOT_BENCH_ARGS)
	@$(VENV)/bin/python benchmarks/measure.py $(MEASURE_BENCH_ARGS)
	@$(VENV)/bin/python benchmarks/verify.py $(VERIFY_BENCH_ARGS)

vectors:
	@scripts/setup demo
	@$(VENV)/bin/python tests/support/fetch_vectors.py

# Refreshes the hash-locked Python dependencies; needs uv.
lock-requirements:
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --group build \
		-o requirements.lock
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --group chain \
		-o requirements-chain.lock
	uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --group build --group dev \
		-c requirements.lock -o requirements-dev.lock

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
