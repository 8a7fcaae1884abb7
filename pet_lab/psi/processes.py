"""Former place of end-to-end runs as processes, until its callers have moved."""

import functools

from . import end_to_end

run = functools.partial(end_to_end.run, separate=True)
