"""Bad arguments are refused in one sentence: what was expected, what came, what to do."""

from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

MOST = 2**32 - 1  # what numpy, scikit-learn and TensorFlow take as a seed; no count comes near


def require(holds: object, sentence: str, error: type[Exception] = ValueError) -> None:
    """Raise `error` with the sentence unless `holds` is true.

    >>> require(len("abc") == 3, "a code has three letters.")
    """
    if not holds:
        raise error(sentence)


def between(low: float, high: float, /, *, hint: str = "", **values: Any) -> None:
    """Each value is a number from `low` to `high`, both included; NaN is not.

    >>> between(0, 1, fpr=0.1)
    >>> between(0, 1, fpr=2, hint="for 2 % pass 0.02")
    Traceback (most recent call last):
    ValueError: fpr is a number from 0 to 1, got 2; for 2 % pass 0.02.
    """
    for name, value in values.items():
        inside = isinstance(value, Real) and low <= float(value) <= high
        require(inside, f"{name} is a number from {low} to {high}, got {value!r}{_then(hint)}.")


def positive(*, hint: str = "", **values: Any) -> None:
    """Each value is a finite number above 0.

    >>> positive(epsilon=0.5)
    """
    for name, value in values.items():
        inside = isinstance(value, Real) and 0 < float(value) < float("inf")
        require(inside, f"{name} is a number above 0, got {value!r}{_then(hint)}.")


def whole(low: int, /, *, hint: str = "", **values: Any) -> None:
    """Each value is a whole number of at least `low` (and at most `MOST`).

    >>> whole(2, replicates=1)
    Traceback (most recent call last):
    ValueError: replicates is a whole number of at least 2, got 1.
    """
    for name, value in values.items():
        inside = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
        require(inside, f"{name} is a whole number of at least {low}, got {value!r}{_then(hint)}.")
        require(value <= MOST, f"{name} is a whole number of at most {MOST}, got {value!r}.")


def one_of(choices: Collection[Any], *, hint: str = "", **values: Any) -> None:
    """Each value is one of the choices.

    >>> one_of(("exact", "dice"), rule="fuzzy")
    Traceback (most recent call last):
    ValueError: rule is one of exact, dice, got 'fuzzy'.
    """
    for name, value in values.items():
        listed = ", ".join(map(str, choices))
        require(value in choices, f"{name} is one of {listed}, got {value!r}{_then(hint)}.")


def distinct(*, least: int = 1, **lists: Sequence[Any]) -> None:
    """Each list has at least `least` entries, no two of them equal.

    >>> distinct(epsilons=[1, 1])
    Traceback (most recent call last):
    ValueError: epsilons is a list of 1 or more different values, got [1, 1].
    """
    for name, values in lists.items():
        ok = len(values) >= least and len(set(values)) == len(values)
        require(ok, f"{name} is a list of {least} or more different values, got {list(values)}.")


def _then(hint: str) -> str:
    return f"; {hint}" if hint else ""
