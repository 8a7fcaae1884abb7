"""Where the simulations find the examples of the rooms that they drive."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "mpc"))
