"""The wheel is a function of the sources: whoever builds it gets the same bytes."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_a_wheel_built_twice_is_identical(tmp_path):
    uv = shutil.which("uv") or ROOT / ".tools" / "bin" / "uv"
    if not Path(uv).exists():
        pytest.skip("uv is neither on the path nor in .tools")
    digests = []
    for name in ("first", "second"):
        source, out = tmp_path / name / "source", tmp_path / name / "dist"
        source.mkdir(parents=True)
        for part in ("pyproject.toml", "README.md", "LICENSE"):  # copies have times of their own
            (source / part).write_bytes((ROOT / part).read_bytes())
        shutil.copytree(
            ROOT / "pet_lab",
            source / "pet_lab",
            ignore=shutil.ignore_patterns("__pycache__"),
            copy_function=shutil.copyfile,
        )
        command = [uv, "build", "--wheel", "--quiet", "--out-dir", out, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "error sending request" in done.stderr:
            pytest.skip("the build backend cannot be fetched here")
        assert done.returncode == 0, done.stderr
        (wheel,) = out.glob("*.whl")
        digests.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
