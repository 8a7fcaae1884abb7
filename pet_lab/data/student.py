"""UCI Student Performance, mathematics: what its documentation says about its columns.

`DOMAIN` is the *public* domain: every value that the documentation of the data set allows, whether
or not it occurs in the table. A synthesiser that uses it learns nothing from the data about which
values exist. Two entries are wider than the documentation: ``failures`` is documented as "n if
1 <= n < 3, else 4", which leaves unclear how none and three are written, so 0 to 4 are allowed.

Source: P. Cortez, Student Performance, UCI Machine Learning Repository, 2008, file student.txt.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["DOMAIN", "TARGET"]

TARGET = "G3>=10"
"""The pass mark used throughout: final grade of at least 10 out of 20."""

_YES_NO = ("no", "yes")
_JOBS = ("at_home", "health", "other", "services", "teacher")
_FIVE = (1, 2, 3, 4, 5)
_GRADES = tuple(range(21))

DOMAIN: Mapping[str, tuple[str, ...] | tuple[int, ...]] = MappingProxyType(
    {
        "school": ("GP", "MS"),
        "sex": ("F", "M"),
        "age": tuple(range(15, 23)),
        "address": ("R", "U"),
        "famsize": ("GT3", "LE3"),
        "Pstatus": ("A", "T"),
        "Medu": (0, 1, 2, 3, 4),
        "Fedu": (0, 1, 2, 3, 4),
        "Mjob": _JOBS,
        "Fjob": _JOBS,
        "reason": ("course", "home", "other", "reputation"),
        "guardian": ("father", "mother", "other"),
        "traveltime": (1, 2, 3, 4),
        "studytime": (1, 2, 3, 4),
        "failures": (0, 1, 2, 3, 4),
        "schoolsup": _YES_NO,
        "famsup": _YES_NO,
        "paid": _YES_NO,
        "activities": _YES_NO,
        "nursery": _YES_NO,
        "higher": _YES_NO,
        "internet": _YES_NO,
        "romantic": _YES_NO,
        "famrel": _FIVE,
        "freetime": _FIVE,
        "goout": _FIVE,
        "Dalc": _FIVE,
        "Walc": _FIVE,
        "health": _FIVE,
        "absences": tuple(range(94)),
        "G1": _GRADES,
        "G2": _GRADES,
        "G3": _GRADES,
    }
)
