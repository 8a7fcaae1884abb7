"""Run every benchmark: `python -m benchmarks [NAME...]`; ends with 1 if a claim does not hold."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def scripts() -> list[Path]:
    """Benchmark scripts: those that can be run by themselves."""
    found = sorted(FOLDER.glob("*.py"))
    return [p for p in found if p.name != "__main__.py" and "__main__" in p.read_text()]


def main(names: list[str]) -> int:
    """Run the scripts named, or all; print a line for each and a table at the end."""
    known = {p.stem: p for p in scripts()}
    unknown = [n for n in names if n not in known]
    if unknown:
        print(f"No benchmark {unknown[0]!r}; there are: {', '.join(known)}.", file=sys.stderr)
        return 2
    lines = []
    for name in names or known:
        print(f"== {name}", flush=True)
        command = [sys.executable, str(known[name])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        try:
            result = json.loads(done.stdout.strip().splitlines()[-1])
            word = "holds" if result["holds"] else "DOES NOT HOLD"
            figures = f"{result['ratio']:.2f} times (goal {result['goal']})"
            lines.append((bool(result["holds"]), f"{word}: {result['claim']}: {figures}"))
        except (IndexError, KeyError, TypeError, ValueError):
            lines.append((False, f"FAILED: {name} ended with status {done.returncode}"))
    print("\n".join(text for _, text in lines))
    return int(not all(holds for holds, _ in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
