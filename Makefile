# make train PRESET=hopper ARGS="rl.training.stop.time_total_s=60"
PRESET ?= reacher
ARGS ?=
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv/peers
SDK3 := .venv/sdk3
ROBOSCHOOL := .venv/roboschool
# Where it is set, every process would compile all modules that it imports: 10 s for a training.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train deepracer test test-system test-docker image image-gpu sbom audit lint install bench bench-serving bench-counters bench-screens bench-offline bench-deepracer bench-tuning bench-unity bench-image bench-start bench-classic zoo clean

train: install
	$(BIN)/smrl train --preset $(PRESET) $(ARGS)

# A DeepRacer car that drives by its camera, then five laps with videos and a picture of the driven lines.
deepracer: install
	$(BIN)/smrl train --preset deepracer --out results/deepracer $(ARGS)
	$(BIN)/smrl evaluate results/deepracer

PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: install $(PEERS)/.installed $(ROBOSCHOOL)/.installed
	$(PYTEST) -m "not system" $(PYTEST_ARGS)

# What takes minutes or machines of its own: several hosts, notebooks, learning to a threshold, SageMaker's whole jobs.
test-system: install
	$(MAKE) --jobs 2 $(PEERS)/.installed $(SDK3)/.installed
	$(PYTEST) -m system --ignore tests/docker $(PYTEST_ARGS)
	$(MAKE) test-docker

# The images, by the Docker daemon that runs; where none does, root starts one for the tests. tests/docker/engine.py says
# what it takes, and which variables save time. Without all that they skip, and say why.
test-docker: install
	$(MAKE) --jobs 2 $(PEERS)/.installed $(SDK3)/.installed
	$(BIN)/pytest tests/docker $(PYTEST_ARGS)

# TORCH_INDEX is the URL of PyTorch's CPU wheels; PyTorch's installation page has it.
image:
	@TORCH_INDEX="$(TORCH_INDEX)" $(PYTHON) images/build.py cpu $(IMAGE_ARGS)

# A bill of materials (CycloneDX), which the image has as /opt/smrl/sbom.cdx.json too.
sbom: install
	$(BIN)/python images/sbom.py cpu sbom.cpu.json

# Known vulnerabilities of what the CPU image ships.
audit: install
	$(BIN)/python -m venv .venv/audit && .venv/audit/bin/pip install --quiet pip-audit
	sed 's/+cpu//; s/ --hash.*//' images/cpu.txt > .venv/audit/packages.txt
	.venv/audit/bin/pip-audit --requirement .venv/audit/packages.txt --no-deps --disable-pip

image-gpu:
	@TORCH_INDEX="$(TORCH_INDEX)" $(PYTHON) images/build.py gpu $(IMAGE_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# PPO against its peers, into benchmarks/RESULTS.md: about an hour. make bench PARTS="speed limits" for some of it.
# PARTS=threads, in eight minutes and without peers, is how it scales with cores, into benchmarks/threads.md.
bench: install
ifeq ($(PARTS),threads)
	$(BIN)/python -m benchmarks.threads
else
	test -x .venv/bench/bin/python || $(BIN)/python -m venv .venv/bench
	.venv/bench/bin/pip install --quiet --requirement benchmarks/ppo_peers/requirements.txt
	$(BIN)/python -m benchmarks.ppo $(PARTS)
endif

# Ten tasks of Gymnasium with the general settings, against Stable-Baselines3's defaults, into benchmarks/classic.md.
bench-classic: install
	test -x .venv/bench/bin/python || $(BIN)/python -m venv .venv/bench
	.venv/bench/bin/pip install --quiet --requirement benchmarks/ppo_peers/requirements.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.classic $(TASKS)

bench-serving: install
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.serving $(PARTS)

bench-counters: install
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.counters

# Runs what the README shows, and writes what it prints into README.md.
bench-screens: install
	$(BIN)/python -m benchmarks.screens

bench-offline: install
	$(BIN)/python -m benchmarks.offline

bench-deepracer: install
	$(BIN)/python -m benchmarks.deepracer

bench-tuning: install
	$(BIN)/python -m benchmarks.tuning

bench-unity: install
	$(BIN)/python -m benchmarks.unity

# Writes benchmarks/start.md, in half an hour on an idle machine; ARGS="--before CHECKOUT" measures another commit beside it.
bench-start: install
	$(BIN)/python -m benchmarks.start $(ARGS)

# OpenAI's agents on our robots and on Roboschool's own, into docs/robots.md: make zoo ZOO=FOLDER, a quarter of an hour.
zoo: install $(ROBOSCHOOL)/.installed
	$(BIN)/python -m benchmarks.zoo $(ZOO) $(ARGS)

# Writes benchmarks/image.md; on an idle machine with a Docker daemon.
bench-image: install
	$(BIN)/python -m benchmarks.image

install: $(STAMP)

# Before the environments within its folder, which may be made at the same time otherwise.
$(BIN)/python:
	$(PYTHON) -m venv .venv

$(STAMP): setup.cfg pyproject.toml constraints.txt smrl-scripts-of-2020.pth | $(BIN)/python
	# Python compiles a module when it is first imported: most of torch's and Ray's never are.
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	# An editable install leaves data files out; a wheel carries this one by itself.
	cp smrl-scripts-of-2020.pth "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(BIN)/python -m runtime.ppo.compiled.compile_ahead
	touch $(STAMP)

# TensorFlow and the SageMaker SDK, which tests run against our files and our server.
$(PEERS)/.installed: tests/peers/requirements.txt | $(BIN)/python
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --no-compile --requirement tests/peers/requirements.txt
	touch $@

$(SDK3)/.installed: tests/peers/sdk3.txt | $(BIN)/python
	test -x $(SDK3)/bin/python || $(PYTHON) -m venv $(SDK3)
	$(SDK3)/bin/pip install --quiet --no-compile --requirement tests/peers/sdk3.txt
	touch $@

# OpenAI's Roboschool as it was released, for its Bullet: built for Python 3.7, of which only the package is used.
$(ROBOSCHOOL)/.installed: | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps --no-compile --target $(ROBOSCHOOL) --only-binary :all: --python-version 3.7 \
		--implementation cp --abi cp37m --platform manylinux1_x86_64 roboschool==1.0.49
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
