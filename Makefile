# make train PRESET=hopper ARGS="rl.training.stop.time_total_s=60"
PRESET ?= reacher
ARGS ?=
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv/peers
SDK3 := .venv/sdk3

.PHONY: train deepracer test test-system test-image image image-gpu sbom audit lint install bench bench-serving bench-counters bench-screens bench-offline bench-deepracer bench-tuning bench-unity clean

train: install
	$(BIN)/smrl train --preset $(PRESET) $(ARGS)

# A DeepRacer car that drives by its camera, then five laps with videos and a picture of the driven lines.
deepracer: install
	$(BIN)/smrl train --preset deepracer --out results/deepracer $(ARGS)
	$(BIN)/smrl evaluate results/deepracer

PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: install
	$(MAKE) --jobs 2 lint $(PEERS)/.installed
	$(PYTEST) -m "not system" $(PYTEST_ARGS)

# What takes minutes or machines of its own: several hosts, notebooks, learning to a threshold, SageMaker's whole jobs.
test-system: install
	$(MAKE) --jobs 2 $(PEERS)/.installed $(SDK3)/.installed
	$(PYTEST) -m system $(PYTEST_ARGS)

# Runs the CPU image's own build steps in Debian roots, as root, with debootstrap; no container engine is needed.
test-image: install
	IMAGE_TESTS=$${IMAGE_TESTS:-$$(mktemp -d)} $(BIN)/pytest tests/image -s

# TORCH_INDEX is the URL of PyTorch's CPU wheels; PyTorch's installation page has it.
image:
	@test -n "$(TORCH_INDEX)" || { echo "make image: TORCH_INDEX is missing, the URL of PyTorch's CPU wheels"; exit 2; }
	docker build --file Dockerfile.cpu --build-arg TORCH_INDEX=$(TORCH_INDEX) --tag smrl:cpu .

# A bill of materials (CycloneDX), and known vulnerabilities, of what the CPU image ships.
sbom: install
	$(BIN)/python -m venv .venv/audit && .venv/audit/bin/pip install --quiet cyclonedx-bom pip-audit
	.venv/audit/bin/cyclonedx-py requirements images/cpu.txt --output-file sbom.cpu.json

audit: sbom
	sed 's/+cpu//; s/ --hash.*//' images/cpu.txt > .venv/audit/packages.txt
	.venv/audit/bin/pip-audit --requirement .venv/audit/packages.txt --no-deps --disable-pip

image-gpu:
	docker build --file Dockerfile.gpu --tag smrl:gpu .

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# PPO against its peers, into benchmarks/RESULTS.md: about an hour. make bench PARTS="speed limits" for some of it.
bench: install
	test -x .venv/bench/bin/python || $(BIN)/python -m venv .venv/bench
	.venv/bench/bin/pip install --quiet --requirement benchmarks/ppo_peers/requirements.txt
	$(BIN)/python -m benchmarks.ppo $(PARTS)

bench-serving: install
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/serving.py

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

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt smrl-scripts-of-2020.pth
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	# An editable install leaves data files out; a wheel carries this one by itself.
	cp smrl-scripts-of-2020.pth "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(BIN)/python -m runtime.ppo.compiled.compile_ahead
	touch $(STAMP)

# TensorFlow and the SageMaker SDK, which tests run against our files and our server.
$(PEERS)/.installed: tests/peers/requirements.txt $(STAMP)
	test -x $(PEERS)/bin/python || $(BIN)/python -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement tests/peers/requirements.txt
	touch $@

$(SDK3)/.installed: tests/peers/sdk3.txt $(STAMP)
	test -x $(SDK3)/bin/python || $(BIN)/python -m venv $(SDK3)
	$(SDK3)/bin/pip install --quiet --requirement tests/peers/sdk3.txt
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
