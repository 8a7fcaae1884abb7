"""One normal form for what is encoded and what is blocked on: as text, or as whole numbers."""

import datetime
import unicodedata
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import require


def plain_text(value: Any) -> str:
    """The text that stands for one value, empty where it is missing or blank.

    Dates are ISO days, whole numbers digits however they are stored, text is composed (NFC), in
    upper case, with single blanks between words and none around. ValueError if it holds a NUL.
    """
    if pd.isna(value):
        return ""
    if isinstance(value, datetime.datetime | np.datetime64):  # pandas' Timestamp too
        return str(np.datetime64(value, "D"))
    if isinstance(value, float | np.floating) and value.is_integer():
        return str(int(value))
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(value)).upper())
    require("\0" not in text, "A text to encode holds a NUL character; strip it first.")
    return " ".join(text.split())


def whole_numbers(column: pd.Series) -> np.ndarray | None:
    """The column as 64-bit integers, unsigned where it is; None unless all are whole numbers."""
    if not pd.api.types.is_integer_dtype(column.dtype) or column.isna().any():
        return None
    unsigned = pd.api.types.is_unsigned_integer_dtype(column.dtype)
    return column.to_numpy(dtype=np.uint64 if unsigned else np.int64)


def text_codes(columns: list[pd.Series]) -> tuple[np.ndarray, int]:
    """A number for each value of the columns, one after the other, alike where the texts are.

    Numbers are 0 .. n - 1, with n the second result; -1: missing or blank.
    """
    numbers = [v for column in columns if (v := whole_numbers(column)) is not None]
    if len(numbers) == len(columns) and len({v.dtype for v in numbers}) == 1:
        codes, distinct = pd.factorize(np.concatenate(numbers))  # equal numbers, equal texts
        return codes, len(distinct)
    parts: list[np.ndarray] = []
    texts: list[str] = []
    for column in columns:
        part, distinct = pd.factorize(column)
        parts.append(np.where(part < 0, -1, part + len(texts)))
        texts += [plain_text(value) for value in distinct]
    of_text, different = pd.factorize(np.array([t or None for t in [*texts, ""]], dtype=object))
    return of_text[np.concatenate(parts)], len(different)
