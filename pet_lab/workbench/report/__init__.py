"""Reports: one offline, accessible HTML file per notebook, and the pages that list them.

build(ws, names=None, profile=None) -> paths      everything
build_run(ws, record) -> path                      one run of your own
build_index(ws)                                   index, scorecard, failures alone
guard(html)                                       what no page may hold
"""

from pet_lab.workbench.report.guard import GuardError, Objection, guard, objections, sanitise
from pet_lab.workbench.report.pages import RefusedReports, build, build_index, build_run, page_name

__all__ = [
    "GuardError",
    "Objection",
    "RefusedReports",
    "build",
    "build_index",
    "build_run",
    "guard",
    "objections",
    "page_name",
    "sanitise",
]
