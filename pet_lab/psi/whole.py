"""Former name of `end_to_end`, until its callers have moved."""

from .end_to_end import run  # noqa: F401
from .engines import engine_named  # noqa: F401
