# Two commands: `make serve` and `make test`. Each sets up what is missing first.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv

.PHONY: serve test check conformance clients durability chaos schemathesis eval agent-faults bench bench-floor load clean

serve: .venv/ready
	@exec $(BIN)/holdfast serve

# Most tests wait for a server or a timer: two processes of them need little more than one. A file stays together.
test: .venv/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture

# At our own server; with BASE_URL=http://localhost:2024 at any other, for example `langgraph dev`.
conformance: .venv/ready
	$(BIN)/python -m pytest tests/conformance

clients: .venv/ready tests/clients/node_modules
	@command -v chromium >/dev/null || (apt-get update -q && apt-get install -q -y chromium)
	$(BIN)/python -m tests.clients

# GOALS="R1 R7" plays only those.
durability: .venv/ready
	$(BIN)/python -m tests.durability $(GOALS)

# SEED=... plays one schedule again, SECONDS=... bounds it (600).
chaos: .venv/ready
	$(BIN)/python -m tests.durability.chaos $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS))

schemathesis: .venv/ready
	$(BIN)/python -m tests.fuzz

# With OPENAI_API_KEY on the real model. ARGS="--baseline FILE" fails on regressions, "--url URL" is another server's agent.
eval: .venv/ready
	$(BIN)/python -m tests.evaluation $(ARGS)

# Some minutes. ARGS="--seed 7" plays one schedule again.
agent-faults: .venv/ready
	$(BIN)/python -m tests.graph.faults --runs 3000 --rate 0.3 $(ARGS)

# Some ten minutes; the report is .bench/report.md. ARGS="--scenario wait --clients 32 --peers=" measures only that.
bench: .venv/ready
	$(BIN)/python -m bench $(ARGS)

# The same graph without a server: what any server adds to.
bench-floor: .venv/ready
	$(BIN)/python -m bench.floor $(ARGS)

# 100 runs a second through a rolling restart of two replicas behind nginx. ARGS="--rate 50 --seconds 30".
load: .venv/ready
	@command -v nginx /usr/sbin/nginx >/dev/null || (apt-get update -q && apt-get install -q -y nginx-light)
	$(BIN)/python -m bench.target $(ARGS)

# uv comes from PyPI into the environment itself, so that python3 and make are all that a machine needs;
# --inexact lets it stay there.
$(UV):
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/ready: $(UV) pyproject.toml uv.lock
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --quiet --frozen --inexact --all-extras
	@touch $@

tests/clients/node_modules: tests/clients/package.json tests/clients/package-lock.json
	@command -v npm >/dev/null || (apt-get update -q && apt-get install -q -y nodejs npm)
	cd tests/clients && npm ci --no-audit --no-fund
	@touch $@

clean:
	rm -rf .venv .holdfast
