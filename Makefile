# Each target is one line; UV is brought from PyPI into .tools where the machine has none.
UV  := $(shell command -v uv || echo .tools/bin/uv)
RUN := $(UV) run --frozen --all-extras

.PHONY: reports test test-slow lab lint docs full bench browser pylock sbom audit clean

reports: $(UV) ; $(RUN) pet-lab reproduce --profile quick

test: $(UV) ; $(RUN) pytest -n auto --dist loadfile -m "not slow"

# Kills, many processes, browsers, long statistics.
test-slow: $(UV) ; $(RUN) pytest -n auto --dist loadfile -m slow

lab: $(UV) ; $(RUN) pet-lab lab

lint: $(UV) ; $(RUN) ruff format --check . && $(RUN) ruff check . && $(RUN) mypy && $(RUN) deptry . && $(RUN) codespell

docs: $(UV) ; $(RUN) pdoc -o docs/api pet_lab '!pet_lab.cli'

full: $(UV) ; $(RUN) pet-lab reproduce --profile full

bench: $(UV) ; $(RUN) python -m benchmarks

# Debian's Chromium and its driver: the browser tests skip without them.
browser: ; command -v chromium chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; }

# The same set for plain pip, and as a bill of materials.
pylock: $(UV) ; $(UV) export --frozen --all-extras --no-dev --no-emit-project --format pylock.toml -o pylock.toml --quiet

sbom: $(UV) ; $(UV) export --frozen --all-extras --no-dev --format cyclonedx1.5 -o sbom.cdx.json --quiet

# Known vulnerabilities in what is locked; asks PyPI and OSV, so it needs a network.
audit: $(UV) ; $(UV) tool run "pip-audit>=2.9" --locked .

clean: ; rm -rf papermill_runs/*/ reports/*.html docs/api sbom.cdx.json .venv .tools .pytest_cache .ruff_cache .mypy_cache .hypothesis

.tools/bin/uv: ; python3 -m venv .tools && .tools/bin/pip install --quiet "uv>=0.5"
