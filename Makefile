# Everything a developer or a CI needs. `make help` lists the verbs; all of them but `clean` and `help` set up first.
#
# A machine with a CUDA device needs only NVIDIA's driver besides: the lock carries the CUDA 13 builds of torch and CuPy.
# Isaac Sim (PhysX) is not in the lock; docs/start.md says how to add it to .venv.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: setup demo docs-serve run setup-gymnasium run-gymnasium test-gymnasium test test-slow test-gpu test-mjlab verify-gpu check format bench results docs build lock clean help

UV ?= $(shell command -v uv || echo .uv/bin/uv)
BIN := .venv/bin
MJLAB_DEV := onnxruntime pytest pytest-timeout setuptools
RUN_ARGS ?= --task Isaac-Cartpole --agent lif_ppo --num_envs 512 --max_iterations 60

setup: .venv/.stamp ## build .venv from requirements.lock (instant when nothing changed)

.venv/.stamp: pyproject.toml setup.py isaaclab_mujoco/pyproject.toml requirements.lock | $(filter .uv/bin/uv,$(UV))
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null || $(call make_venv,.venv,3.12)
	$(UV) pip install --python $(BIN)/python --quiet --compile-bytecode --require-hashes --requirements requirements.lock
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable . --editable ./isaaclab_mujoco
	@$(BIN)/python -m compileall -q spiky_rl isaaclab_mujoco/src
	@touch $@

# mjlab cannot be installed beside Isaac Lab, so it has an environment of its own.
.venv-mjlab/.stamp: pyproject.toml setup.py requirements-mjlab.lock | $(filter .uv/bin/uv,$(UV))
	@.venv-mjlab/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null || $(call make_venv,.venv-mjlab,3.12)
	$(UV) pip install --python .venv-mjlab/bin/python --quiet --compile-bytecode --require-hashes --requirements requirements-mjlab.lock
	$(UV) pip install --python .venv-mjlab/bin/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# A python of that version on the path first, then pyenv's, then whatever uv knows or can download.
define make_venv
{ echo "making $(1)"; \
  for python in python$(2) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(2)*/bin/python $(2); do \
    $(UV) venv --quiet --clear --python "$$python" $(1) 2>$(1).log && rm $(1).log && exit 0; \
  done; \
  cat $(1).log; rm -f $(1).log; \
  echo "No Python $(2) found. Install it (pyenv install $(2), or your system's python$(2)) and try again." >&2; exit 1; }
endef

# Some systems ship python3 without venv's own pip; the user's site then takes uv.
.uv/bin/uv:
	@echo "uv is not installed; putting it into .uv"
	@rm -rf .uv; for python in python3.12 python3 /usr/bin/python3; do \
	  $$python -m venv .uv 2>/dev/null && .uv/bin/pip install --quiet --disable-pip-version-check uv && exit 0; \
	  $$python -m pip install --quiet --user uv 2>/dev/null || continue; \
	  mkdir -p .uv/bin && ln -sf "$$($$python -m site --user-base)/bin/uv" $@ && exit 0; \
	done; \
	echo "Could not install uv. Install it by hand (pipx install uv) and try again." >&2; exit 1

demo: setup ## show a trained robot and its spikes in the browser, or as a film; nothing is trained
	$(BIN)/python scripts/demo.py $(DEMO_ARGS)

run: setup ## train a small spiking agent on Cartpole, on the CPU if there is no GPU
	$(BIN)/python scripts/train.py $(RUN_ARGS)

# Gymnasium's tasks without Isaac Lab, in an environment of their own, with the lock's versions. PyTorch's index has the CPU build,
# of 0.7 instead of 5 GB; PyPI has the CUDA build alone.
# GYMNASIUM_PYTHON=3.13 builds it anew with the other Python that it works on.
GYMNASIUM_PYTHON ?= 3.12
GYMNASIUM := .venv-gymnasium/bin
GYMNASIUM_STAMP := .venv-gymnasium/.stamp-$(GYMNASIUM_PYTHON)
install_gymnasium = $(UV) pip install --python $(GYMNASIUM)/python --quiet --compile-bytecode --constraint requirements.lock \
  --editable '.[gymnasium,skrl]' onnxruntime pip psutil pytest pytest-timeout

setup-gymnasium: $(GYMNASIUM_STAMP) ## build .venv-gymnasium: Gymnasium's tasks, without Isaac Lab

$(GYMNASIUM_STAMP): pyproject.toml setup.py requirements.lock | $(filter .uv/bin/uv,$(UV))
	@[ "$$($(GYMNASIUM)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = $(GYMNASIUM_PYTHON) ] || $(call make_venv,.venv-gymnasium,$(GYMNASIUM_PYTHON))
	@$(install_gymnasium) --torch-backend cpu || { echo "no CPU build of torch; taking PyPI's" && $(install_gymnasium); }
	@touch $@

run-gymnasium: setup-gymnasium ## train a small spiking agent on Gymnasium's CartPole-v1, without Isaac Lab
	$(GYMNASIUM)/python scripts/train.py --task CartPole-v1 --agent lif_ppo --device cpu

test-gymnasium: setup-gymnasium ## Gymnasium's tests where Isaac Lab is not installed
	$(GYMNASIUM)/python -m pytest tests/hosts/gymnasium tests/hosts/test_hosts.py tests/run/test_trained_policy.py $(PYTEST_ARGS)

# A file's tests stay together: some share a simulator or a training run. Files are handed out in their alphabetical order, in
# which those that start simulators come early, and not by their number of tests: else the longest files would run last.
# PYTEST_ARGS="--shuffle SEED" draws another order.
test: setup ## the fast tests, on up to four cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-slow: setup ## the slow tests (training runs, builds)
	$(BIN)/python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

test-mjlab: .venv-mjlab/.stamp ## the tests of mjlab's tasks and of rsl_rl 5.4, in .venv-mjlab (MJLAB_TESTS="-m slow": the slow ones)
	OMP_NUM_THREADS=1 .venv-mjlab/bin/python -m pytest tests/hosts/mjlab tests/hosts/test_rsl_rl_versions.py $(MJLAB_TESTS)

verify-gpu: setup ## all that waits for a GPU, and a page of it (VERIFY_ARGS=--dry-run: on the CPU)
	$(BIN)/python scripts/verify_gpu.py $(VERIFY_ARGS)

check: setup ## black, ruff, pyright, pylint, and scores beside their result files, without changing a file
	$(BIN)/black --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/pylint spiky_rl isaaclab_mujoco/src/isaaclab_mujoco benchmarks scripts
	$(BIN)/python docs/results.py --check

format: setup ## let black rewrite the files
	$(BIN)/black .

bench: setup ## time the kernels and the policies
	$(BIN)/python scripts/bench.py $(BENCH_ARGS)

results: setup ## write scores and lists of README and guides from result files and registry
	$(BIN)/python docs/results.py

docs: setup ## guides, gallery, catalogue and API into site/ (open site/index.html), every link checked
	$(BIN)/python docs/pages.py

docs-serve: docs ## the documentation on http://localhost:8000
	$(BIN)/python -m http.server --directory site --bind 127.0.0.1 8000

build: setup ## wheels and sdists of spiky_rl and isaaclab_mujoco into dist/
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m build --no-isolation --outdir dist isaaclab_mujoco

# Keeps the versions it finds; `make lock LOCK_ARGS=--upgrade` takes the newest.
lock: setup ## rewrite requirements.lock from both pyproject.toml (all extras but isaacsim and live), and requirements-mjlab.lock
	$(UV) pip compile --quiet --python $(BIN)/python --universal --python-version 3.12 --generate-hashes \
	  --extra isaaclab --extra gymnasium --extra skrl --extra experiments --extra ray --extra cuda --extra video --extra dev \
	  --no-emit-package isaaclab-mujoco --custom-compile-command "make lock" \
	  --output-file requirements.lock $(LOCK_ARGS) pyproject.toml - <<<./isaaclab_mujoco >/dev/null
	printf '%s\n' $(MJLAB_DEV) | $(UV) pip compile --quiet --python $(BIN)/python --universal --python-version 3.12 --generate-hashes \
	  --extra mjlab --custom-compile-command "make lock" --output-file requirements-mjlab.lock $(LOCK_ARGS) pyproject.toml - >/dev/null

clean: ## remove what the other verbs made, except environments and logs/
	rm -rf build dist site .pytest_cache *.egg-info isaaclab_mujoco/build isaaclab_mujoco/.pytest_cache isaaclab_mujoco/src/*.egg-info
	find spiky_rl isaaclab_mujoco scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile
