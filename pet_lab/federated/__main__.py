"""`python -m pet_lab.federated server|office FOLDER`: one process of a federation.

`flower.processes` starts them. The folder holds credentials and settings; see there.
"""

import sys
from pathlib import Path

from pet_lab.federated import flower

_ROLES = {"server": flower.serve, "office": flower.join}


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in _ROLES:
        print("Usage: python -m pet_lab.federated server|office FOLDER", file=sys.stderr)
        return 2
    try:
        _ROLES[arguments[0]](Path(arguments[1]))
    except (flower.ChannelError, OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
