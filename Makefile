# Two commands: `make serve` and `make test`. Each sets up what is missing first.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv

.PHONY: serve test check conformance clients durability chaos schemathesis security audit eval agent-faults bench bench-floor load stack \
	idle clean

# $(call installed,PROGRAM,PACKAGE): the program, from Debian if need be.
installed = command -v $(1) >/dev/null || command -v /usr/sbin/$(1) >/dev/null || \
	(apt-get update -q && apt-get install -q -y --no-install-recommends $(2))

serve: .venv/ready
	@exec $(BIN)/holdfast serve

# Most tests wait for a server or a timer: two processes of them need little more than one. A file stays together.
test: .venv/deploy
	@$(call installed,nginx,nginx-light)
	@$(call installed,prometheus,prometheus)
	@$(call installed,redis-server,redis-server)
	@$(call installed,pgbouncer,pgbouncer)
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

# Who gets in, out or through who should not: all of tests/security, of which `make test` has a slice.
security: .venv/ready
	@$(call installed,redis-server,redis-server)
	SECURITY=whole $(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/security
	$(BIN)/python -m tests.security.flood

# Known holes in what we stand on. Asks PyPI and npm, so it is no part of `make test`.
audit: .venv/ready
	$(UV) export --quiet --frozen --no-dev --all-extras --no-emit-project | $(UV) tool run pip-audit --strict --no-deps --disable-pip -r /dev/stdin
	cd tests/clients && npm audit

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
	@$(call installed,nginx,nginx-light)
	$(BIN)/python -m bench.target $(ARGS)

# Two replicas behind nginx and a Prometheus, until Ctrl-C. ARGS="--port 9000".
stack: .venv/ready
	@$(call installed,nginx,nginx-light)
	@$(call installed,prometheus,prometheus)
	@PYTHONPATH=server exec $(BIN)/python -m deploy.stack $(ARGS)

# Streams on which nothing happens for ten minutes, through each proxy that deploy/ has a file for: forty minutes.
idle: .venv/deploy
	@$(call installed,nginx,nginx-light)
	IDLE_SECONDS=600 $(BIN)/python -m pytest tests/deploy/test_proxies.py -k stays_open

# uv comes from PyPI into the environment itself, so that python3 and make are all that a machine needs;
# --inexact lets it stay there.
$(UV):
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/ready: $(UV) pyproject.toml uv.lock
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --quiet --frozen --inexact --all-extras
	@touch $@

# What looks at deploy/ in tests (linters, schemas, Caddy, Traefik): 300 MB that nobody needs who only serves.
.venv/deploy: .venv/ready
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --quiet --frozen --inexact --all-extras --group deploy
	@touch $@

tests/clients/node_modules: tests/clients/package.json tests/clients/package-lock.json
	@command -v npm >/dev/null || (apt-get update -q && apt-get install -q -y nodejs npm)
	cd tests/clients && npm ci --no-audit --no-fund
	@touch $@

clean:
	rm -rf .venv .holdfast
