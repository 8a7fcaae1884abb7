"""The attacks' package is light: heavy libraries load only where they are used."""

import subprocess
import sys


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys; from pet_lab import mia; "
        "print(sorted({m.split('.')[0] for m in sys.modules} "
        "& {'tensorflow', 'jax', 'sklearn', 'snsynth', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
