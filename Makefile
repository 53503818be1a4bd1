# The one door for people.  `make help` lists the verbs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ROOMS := methods datasets harness
# mypy sees the rooms under their real names, ovss.methods and so on.
TYPES := $(VENV)/types/ovss

.DEFAULT_GOAL := help
.PHONY: help setup bench test test-slow test-cluster vectors lint format regress leaderboard benchmarks benchmarks-more costs clean

help:  ## what you can do here
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY)  ## create .venv and install everything

$(READY): pyproject.toml setup.py constraints.txt $(wildcard harness/native/*.cpp harness/native/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	mkdir -p $(TYPES)
	ln -sfn $(foreach room,$(ROOMS),$(CURDIR)/$(room)) $(TYPES)/
	touch $@

bench: $(READY)  ## run MaskCLIP on the embedded data set, print the table, write a picture
	$(BIN)/bench run --method maskclip --dataset shapes --picture results/overlay.png

test: $(READY)  ## all tests but the slow ones
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not cluster" --durations=10

test-slow: $(READY)  ## the slow tests
	$(BIN)/pytest -n 2 -m slow

test-cluster: $(READY)  ## a run on a real SLURM and on Ray, where they are installed
	$(BIN)/pytest -m cluster --timeout 1800

vectors: $(READY)  ## compare all methods with the original programs' vectors, and write the table in docs/compatibility.md
	$(BIN)/python tests/methods/vector_table.py

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(VENV)/types $(BIN)/mypy -p ovss.methods -p ovss.datasets -p ovss.harness

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

regress: $(READY)  ## compare every offline method with the committed baselines
	$(BIN)/bench regress

leaderboard: $(READY)  ## run all methods on the embedded data set and write results/LEADERBOARD.md
	for method in clip maskclip maskclip-value sclip clearclip naclip clip-surgery gem sfp pearl clip-dinoiser \
	    maskclip-original cliper sc-clip resclip itaclip ovseg-tf clip-s4-like proxyclip lposs lposs-plus; do \
	  $(BIN)/bench run --method $$method --dataset shapes || exit 1; done
	for variant in pooling=none pooling=clip_keys gamma=0.2; do \
	  $(BIN)/bench run --method clip-dinoiser --dataset shapes --option $$variant || exit 1; done
	for variant in prompt_denoising=0.5 key_smoothing=1.0; do \
	  $(BIN)/bench run --method maskclip-original --dataset shapes --option $$variant || exit 1; done
	for variant in proposer=clip-clusters fast=F2; do \
	  $(BIN)/bench run --method ovseg-tf --dataset shapes --option $$variant || exit 1; done
	$(BIN)/bench run --method clip-s4-like --dataset shapes --option classifier=text
	for variant in dino clip; do \
	  $(BIN)/bench run --method corrclip --dataset shapes --option proposer=felzenszwalb --option similarity=$$variant \
	    || exit 1; done
	$(BIN)/bench run --method trident --dataset shapes --option affinity=false
	$(BIN)/bench run --method cliper --dataset shapes --refine tiny-sd
	$(BIN)/bench leaderboard

benchmarks: $(READY)  ## speed ratios against the field's programs and how time grows, written to results/benchmarks.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/speed.py --scaling --output results/benchmarks.md

benchmarks-more: $(READY)  ## speed of Stable Diffusion's attention and of region encoders (takes long)
	$(BIN)/python tests/benchmarks/bench_diffusion.py
	$(BIN)/python tests/benchmarks/bench_ovseg.py

costs: $(READY)  ## measure what an image costs with each method and write results/costs.md (takes long)
	$(BIN)/python tests/benchmarks/cost_per_image.py

clean:  ## remove the virtual environment and build products
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
