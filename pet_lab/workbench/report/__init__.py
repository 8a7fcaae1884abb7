"""Reports: one offline, accessible HTML file per notebook, and the pages that list them."""

# ruff: noqa: F401
from pet_lab.workbench.report.guard import GuardError, guard, objections, sanitise
from pet_lab.workbench.report.pages import (
    RefusedReports,
    build,
    build_index,
    build_run,
    build_sweep,
)
