# Each target is one line; UV is brought from PyPI into .tools where the machine has none.
UV  := $(shell command -v uv || echo .tools/bin/uv)
RUN := $(UV) run --frozen --all-extras

.PHONY: reports test lab lint full bench browser clean

reports: $(UV) ; $(RUN) pet-lab reproduce --profile quick

test: $(UV) ; $(RUN) pytest -n auto --dist loadfile

lab: $(UV) ; $(RUN) pet-lab lab

lint: $(UV) ; $(RUN) ruff format --check . && $(RUN) ruff check . && $(RUN) mypy

full: $(UV) ; $(RUN) pet-lab reproduce --profile full

bench: $(UV) ; $(RUN) python -m benchmarks

# Debian's Chromium and its driver: the browser tests skip without them.
browser: ; command -v chromium chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; }

clean: ; rm -rf papermill_runs reports/*.html .venv .tools .pytest_cache .ruff_cache .mypy_cache .hypothesis

.tools/bin/uv: ; python3 -m venv .tools && .tools/bin/pip install --quiet "uv>=0.5"
