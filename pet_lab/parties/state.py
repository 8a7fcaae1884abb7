"""What a party kept in its folder and reads again: whole, or one sentence on what is wrong."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .errors import PartyError

T = TypeVar("T")
DAMAGE = (ValueError, KeyError, TypeError, EOFError, RecursionError, zipfile.BadZipFile)


def kept(
    path: Path, decode: Callable[[bytes], T], *, what: str, fix: str = "restore it from a copy"
) -> T:
    """`decode` of the file's bytes; PartyError if it cannot be read or holds something else.

    >>> kept(Path("/no/it"), len, what="a task")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pet_lab.parties.errors.PartyError: Expected a task in it, which cannot be read (No such file...
    """
    try:
        return decode(path.read_bytes())
    except OSError as error:
        came = f"which cannot be read ({error.strerror})"
    except DAMAGE as error:
        reason = " ".join(str(error).split()).rstrip(".") or "it is cut off"
        came = f"got something else ({reason[:150]})"
    raise PartyError(f"Expected {what} in {path.name}, {came}; {fix}.")
