"""`python -m pet_lab.federated server FOLDER | office FOLDER ADDRESS`: one process of a federation.

`flower.processes` starts them. The folder holds credentials, task and data; see `flower`.
"""

import sys
from pathlib import Path

from pet_lab.federated import flower
from pet_lab.parties.errors import PartyError


def main(arguments: list[str]) -> int:
    """Run one process; 1 with a sentence on stderr if it fails, 2 if the call makes no sense."""
    try:
        match arguments:
            case ["server", folder]:
                flower.serve(Path(folder))
            case ["office", folder, address]:
                flower.join(Path(folder), address)
            case _:
                print(__doc__.partition(":")[0], file=sys.stderr)
                return 2
    except (PartyError, OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
