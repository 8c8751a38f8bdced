# `make demo` and `make test` are the whole set-up: each makes $(VENV) when it is missing or out of date.
# Written for GNU make 3.81 (macOS) and any POSIX shell.

VENV := .venv
DEMO_ARGS ?=
PYTEST_ARGS ?=
LOCK_ARGS ?=
BENCH_ARGS ?=
# What pip needs to find the CPU build of PyTorch, which saves gigabytes on Linux.
BENCH_PIP_ARGS ?=
# The environment of the programs that `make bench` compares with: 3 GB.
PEERS := $(VENV)/peers
# What `make audit` asks with: its packages would fit badly among the locked ones.
AUDIT := $(VENV)/audit
# An interpreter to use instead of the first fitting one on PATH: make PYTHON=/path/to/python3.12 test
PYTHON ?=

CANDIDATES := python3.13 python3.12 python3.11 python3 python
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
TYPED := dermagan_jax $(wildcard configs/*.py train_*.py)

STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished
# The stamp holds the project's folder. It is stale when the folder was moved (the editable install
# points to the old place) or when the interpreter behind the environment is gone.
STALE := $(if $(wildcard $(STAMP)),$(shell \
	$(VENV)/bin/python -c '$(SUPPORTED)' 2>/dev/null && [ "$$(cat $(STAMP))" = "$$(pwd -P)" ] || echo stale))

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint audit format lock clean stale

help:  ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP)  ## the whole way on made-up images: data, GAN, classifier, report; DEMO_ARGS=--short
	$(VENV)/bin/dermagan demo $(DEMO_ARGS)

test: $(STAMP)  ## run the tests; PYTEST_ARGS='-k name'
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		$(PYTEST_ARGS)

lint: $(STAMP)  ## check style, formatting and types
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy $(TYPED)

bench: $(STAMP) $(PEERS)/.installed  ## compare the speed with PyTorch's and Keras's; BENCH_ARGS=--only=cnn
	$(VENV)/bin/python -m benchmarks --peers-python=$(PEERS)/bin/python $(BENCH_ARGS)

$(PEERS)/.installed: benchmarks/requirements.txt
	$(VENV)/bin/python -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $(BENCH_PIP_ARGS) \
	  -r benchmarks/requirements.txt
	@touch $@

audit: $(STAMP)  ## ask PyPI for known vulnerabilities of the locked packages (needs the network)
	@test -x $(AUDIT)/bin/pip-audit || { $(VENV)/bin/python -m venv $(AUDIT) && \
	  $(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock

format: $(STAMP)  ## mend what can be mended by itself
	$(VENV)/bin/python -m ruff check --fix .
	$(VENV)/bin/python -m ruff format .

lock:  ## pin the dependencies anew after a change of pyproject.toml; LOCK_ARGS=--upgrade
	@uv=$$(command -v $(VENV)/bin/uv || command -v uv) || { \
	  echo "make lock needs uv: $(VENV)/bin/python -m pip install uv" >&2; exit 1; }; \
	set -e; \
	cp requirements.lock requirements.tmp; \
	"$$uv" pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
	  $(LOCK_ARGS) --extra dev --output-file requirements.tmp pyproject.toml; \
	{ echo '# Made by `make lock` for Python 3.11 and later, with the test and dev extras.'; \
	  grep -v '^#' requirements.tmp; } > requirements.lock; \
	rm requirements.tmp

clean:  ## remove caches and build outputs; runs/ and the environment stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.ci-venv/*' \
	  -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml $(STALE)
	@$(make_environment)
	@echo "Installing the locked packages into $(VENV): a few minutes the first time, 3 GB of disk."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@$(VENV)/bin/python -m pip check || { \
	  echo "requirements.lock doesn't fit pyproject.toml: run make lock" >&2; exit 1; }
	@rm -f $(UNFINISHED)
	@pwd -P > $@

# Makes $(VENV) unless a working one is there. One that was made here and is broken, or that a run left
# unfinished, is made anew; a folder made by anyone else is never removed. The interpreter is the one
# beneath any active environment, which may be the very one to be replaced.
define make_environment
set -e; \
if [ ! -e $(UNFINISHED) ] && $(VENV)/bin/python -c '$(SUPPORTED)' 2>/dev/null \
    && $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
if [ ! -e $(UNFINISHED) ] && [ ! -e $(STAMP) ] && [ -n "$$(ls -A $(VENV) 2>/dev/null)" ]; then \
  echo "$(VENV) is there, but is no working environment of Python 3.11 to 3.13: remove it, or choose" \
    "another with make VENV=DIR" >&2; \
  exit 1; \
fi; \
chosen=; bare=; \
for candidate in $(if $(PYTHON),"$(PYTHON)",$(CANDIDATES)); do \
  if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then \
    if "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
      chosen=$$("$$candidate" -c 'import sys; print(sys._base_executable)'); break; \
    fi; \
    bare=$${bare:-$$candidate}; \
  fi; \
done; \
if [ -z "$$chosen" ] && [ -n "$$bare" ]; then \
  echo "$$bare cannot make environments: install its venv package (Debian, Ubuntu:" \
    "apt install python3-venv), or name another with make PYTHON=/path/to/python" >&2; \
  exit 1; \
fi; \
if [ -z "$$chosen" ]; then \
  echo "$(if $(PYTHON),$(PYTHON) is no,PATH holds no) Python 3.11, 3.12 or 3.13 (the locked TensorFlow" \
    "has none later): install one, or name it with make PYTHON=/path/to/python" >&2; \
  exit 1; \
fi; \
echo "Making $(VENV) with $$("$$chosen" --version)"; \
rm -rf $(VENV); \
mkdir -p $(VENV); \
: > $(UNFINISHED); \
"$$chosen" -m venv $(VENV)
endef
