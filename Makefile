# Needs Python 3.11 or later and make; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# The lock file pins Python 3.11's versions; other Pythons take what pyproject.toml allows.
LOCK := $(shell $(PYTHON) -c 'import sys; print("-c requirements.lock" if sys.version_info[:2] == (3, 11) else "")')

.PHONY: demo test test-slow style lint bench clean
.DELETE_ON_ERROR:

# Python compiles what is imported, at its first import: by pip, of everything, it took a third of the set-up.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile $(LOCK)

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[test]'
	touch $@

demo: $(READY)
	$(BIN)/python -m dist_fm.demo

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint: style
	$(BIN)/mypy

# Compiling is most of the fast tests' time; without XLA's fusion emitters and LLVM's optimizations, and in one piece on
# the one core that a worker has, it is a third as much. Of three workers on two cores two run while one waits.
# JAX 0.11, which other Pythons take, cannot do without the emitters, and stops at the flag. The slow tests compile as
# users do; those of compiled steps and of torchfm's outputs at least with fusion. A file's tests share a process, and so
# what they compiled. Types are checked meanwhile, and said at the end.
test: style
	$(BIN)/mypy > $(VENV)/types.txt 2>&1 & types=$$!; \
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0 $(if $(LOCK),--xla_cpu_use_fusion_emitters=false) \
		--xla_cpu_parallel_codegen_split_count=1" \
		$(BIN)/pytest -n 3 --dist=loadfile --no-loadscope-reorder -m 'not slow'; tests=$$?; \
	wait $$types; types=$$?; cat $(VENV)/types.txt; exit $$((tests + types))

test-slow: $(READY)
	$(INSTALL) -e '.[test,ray,browser,onnx,tflite,serve]' kubernetes-validate mlflow-skinny
	JAX_NUM_CPU_DEVICES=8 $(BIN)/pytest -m slow

# Small enough for a few minutes on two cores; PEER_PYTHON=/path/to/python, one that has torchfm, also times torchfm.
BENCH := $(BIN)/python tests/benchmarks
bench: $(READY)
	$(BENCH)/step.py --models=lr,fm,ffm,deepfm --rounds=1 $(if $(PEER_PYTHON),--peer=torchfm --peer_python=$(PEER_PYTHON) \
		--peer_seconds=10) --output=bench-results/step.json
	$(BENCH)/tables.py --rows=1_000_000,10_000_000 --rounds=1 --output=bench-results/tables.json
	$(BENCH)/end_to_end.py --rounds=1 --output=bench-results/end_to_end.json
	$(BENCH)/convert.py --rows=500_000 --rounds=1 --output=bench-results/convert.json \
		$(if $(PEER_PYTHON),--peer_python=$(PEER_PYTHON))
	$(BENCH)/loader.py --rounds=1 --rows=1_000_000 --output=bench-results/loader.json \
		$(if $(PEER_PYTHON),--peer_python=$(PEER_PYTHON))
	$(BENCH)/saving.py --rounds=1 --seconds=20 | tee bench-results/saving.json

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .jax_cache
