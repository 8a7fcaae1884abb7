"""UCI Student Performance, mathematics: what its documentation says about its columns.

`DOMAIN` is the *public* domain: every value that the documentation of the data set allows, whether
or not it occurs in the table. A synthesiser that uses it learns nothing from the data about which
values exist. Two entries are wider than the documentation: ``failures`` is documented as "n if
1 <= n < 3, else 4", which leaves unclear how none and three are written, so 0 to 4 are allowed.

Source: P. Cortez, Student Performance, UCI Machine Learning Repository, 2008, file student.txt.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

from pet_lab.checks import require

from . import canonical
from .entry import Entry, Parsed
from .errors import DataError

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
        **dict.fromkeys(("schoolsup", "famsup", "paid", "activities"), _YES_NO),
        **dict.fromkeys(("nursery", "higher", "internet", "romantic"), _YES_NO),
        **dict.fromkeys(("famrel", "freetime", "goout", "Dalc", "Walc", "health"), _FIVE),
        "absences": tuple(range(94)),
        **dict.fromkeys(("G1", "G2", "G3"), _GRADES),
    }
)


@cache
def pin() -> canonical.Pin:
    """Digests of the published table."""
    text = (resources.files("pet_lab.data") / "pins" / "student_mat.json").read_text("utf-8")
    return canonical.Pin.from_json(text)


def parse(files: Mapping[str, bytes]) -> Parsed:
    """The one file ``student-mat.csv``, compared with `pin`."""
    one = f"Expected one file student-mat.csv, found {len(files)}."
    require(len(files) == 1, one, DataError)
    table = canonical.parse_csv(*files.values())
    return Parsed(table.sha256, tuple(canonical.differences(table, pin())), table.frame)


ENTRY = Entry(
    name="student_mat",
    title="UCI Student Performance (mathematics)",
    file="student-mat.csv",
    also=("student.zip", "student+performance.zip", "student"),
    sha256="7b027dc5ca391dbf12af0e1cd728713d1f736c6314b3760b9e4232462eb175bf",
    rows=395,
    record="a pupil",
    address="https://archive.ics.uci.edu/static/public/320/student+performance.zip",
    licence="CC BY 4.0",
    citation="P. Cortez (2008). Student Performance. UCI Machine Learning Repository. "
    "https://doi.org/10.24432/C5TG7T",
    wanted=lambda name: name.lower() == "student-mat.csv",
    parse=parse,
    stand_in="student_mat_stand_in.csv",
)
"""The table of 395 pupils."""
