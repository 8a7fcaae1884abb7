"""Reports: one offline, accessible HTML file per notebook, and the pages that list them.

build(ws, names=None, profile=None) -> paths      everything
build_run(ws, record) -> path                      one run of your own
build_index(ws)                                   index, scorecard, failures alone
guard(html)                                       what no page may hold
"""

from pet_lab.workbench.report.guard import Finding, GuardError, findings, guard, sanitise
from pet_lab.workbench.report.pages import Refused, build, build_index, build_run, page_name

__all__ = [
    "Finding",
    "GuardError",
    "Refused",
    "build",
    "build_index",
    "build_run",
    "findings",
    "guard",
    "page_name",
    "sanitise",
]
