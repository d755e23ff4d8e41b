# What users, contributors and CI call. Each target makes what it needs.

CONFIG ?= configs/local.yaml
BENCH ?= overhead preprocess engines serve compare
BIN := .venv/bin

# Of `make soak`, and of each target of `make fuzz`.
MINUTES ?= 30
SECONDS ?= 60

# What `make selftest` asks, and what `make tune` is to reach.
URL ?= http://127.0.0.1:8000
GRPC ?= 127.0.0.1:9000
KEY_FILE ?=
P99_MS ?= 100

.PHONY: help setup serve selftest observe docs test test-versions test-nodes test-soak chaos soak fuzz check lint model tune bench bench-autoscale \
	bench-offline bench-overload bench-versions proto

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do printf '  make %-15s %s\n' "$$target" "$$text"; done

setup: .venv/installed ## make .venv and install the pinned packages (about 6.5 GB, most of it torch)

# Reinstalls when the pins change, or the checkout has moved: the commands in a venv know where it was made.
ifneq ($(shell cat .venv/installed 2>/dev/null),$(realpath .))
.PHONY: .venv/installed
endif
.venv/installed: pyproject.toml scripts/setup.sh
	@scripts/setup.sh

serve: setup ## serve CONFIG (default configs/local.yaml) on 127.0.0.1:8000 until Ctrl-C
	@$(BIN)/python -m scripts.serve $(CONFIG)

selftest: setup ## ask the service at URL (and GRPC) what it promises, for a minute: protocols, limits, hostile files, deadlines
	@$(BIN)/python -m benchmarks.selftest --url $(URL) --grpc $(GRPC) $(if $(KEY_FILE),--key-file $(KEY_FILE))

observe: setup ## Prometheus and Grafana, where they are installed, on the service that runs on this machine, until Ctrl-C
	@$(BIN)/python -m scripts.observe

docs: setup ## build the documentation into .cache/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Read .cache/site/index.html"

# Those on a cluster one after the other, since they share its ports; each of the others needs nothing but itself.
test: setup ## run the tests, those on a local Ray cluster included
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 tests/unit tests/fuzz
	@$(BIN)/python -m pytest tests/commands tests/conformance tests/graph tests/observability tests/browser tests/chaos

test-versions: setup ## change a model's versions under load on the tests' cluster (two minutes); `make bench-versions` plays more
	@$(BIN)/python -m pytest tests/versions

test-nodes: setup ## run configs/gpu.yaml on several nodes of this machine, one of which dies (two minutes)
	@$(BIN)/python -m pytest tests/nodes

test-soak: setup ## `make soak` for a minute, as a test
	@$(BIN)/python -m pytest tests/soak

chaos: setup ## kill and change every part of the service under load, and count what its clients see (ten minutes)
	@$(BIN)/python -m benchmarks.chaos

soak: setup ## mixed traffic, faults and kills for MINUTES (default 30): nothing lost, nothing wrong, nothing leaked
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

fuzz: setup ## feed the parsers and decoders with bytes, SECONDS (default 60) for each
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

check: setup ## report what ruff, mypy and the strict config check find
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m scripts.check_config configs/*.yaml

lint: setup ## let ruff mend and format what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## measure all of BENCH: costs, engines, decoders, latency, other servers (an hour; plots in docs/benchmarks)
	@mkdir -p .cache/benchmarks
	@for name in $(BENCH); do \
		$(BIN)/python -m benchmarks.$$name > .cache/benchmarks/$$name.txt || exit 1; \
		cat .cache/benchmarks/$$name.txt; \
	done
	@$(BIN)/python -m benchmarks.plots $(BENCH:%=.cache/benchmarks/%.txt)

bench-autoscale: setup ## measure a step of load under LatencyPolicy and under Serve's own rule (12 minutes)
	@$(BIN)/python -m benchmarks.autoscale

tune: setup ## look for the settings with which CONFIG answers most within P99_MS milliseconds on this machine (20 minutes)
	@$(BIN)/python -m benchmarks.tune --config $(CONFIG) --p99-ms $(P99_MS)

bench-offline: setup ## measure examples/offline_batch.py beside the service on the same cores (ten minutes)
	@$(BIN)/python -m benchmarks.offline

bench-overload: setup ## offer Aperture and other servers up to four times what they can do, and large bodies (half an hour)
	@$(BIN)/python -m benchmarks.overload
	@$(BIN)/python -m benchmarks.large_bodies

bench-versions: setup ## change a model's versions under load, and check every answer (ten minutes)
	@$(BIN)/python -m benchmarks.versions

proto: setup ## generate the gRPC messages and stubs from proto/
	@$(BIN)/python -m scripts.generate_protos

model: setup ## train the bundled model again, as the next version (half an hour on two cores)
	@$(BIN)/python -m examples.finetune
