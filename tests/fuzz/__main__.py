"""Coverage-guided fuzzing by hand: `python -m tests.fuzz NAME -runs=1000000`.

The name `all` stands for all targets, one after the other. Options are libFuzzer's. The corpus
begins with the target's seeds and is not kept; an input that breaks the target is written to
`crash-...` here, or where `-artifact_prefix=` says.
"""

import logging
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pet_lab", "tomllib", "targets"]):
    sys.path.insert(0, str(Path(__file__).parent))
    import targets

WORDS = (b'"', b"null", b"true", b"1e999", b"NaN", b"0x", b"[[[[", b"]]]]", b"{}", b"\xff", b"\0")


def fuzz(target: targets.Target, place: Path, options: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    corpus, words = place / "corpus", place / "words"
    corpus.mkdir()
    for i, raw in enumerate(target.seeds()):
        (corpus / f"seed-{i}").write_bytes(raw)
    texts = ("".join(f"\\x{byte:02X}" for byte in word) for word in WORDS)
    words.write_text("".join(f'"{text}"\n' for text in texts))

    def one(raw: bytes) -> None:  # libFuzzer takes what is returned for a code
        target(raw)

    atheris.Setup([sys.argv[0], *options, str(corpus), f"-dict={words}"], one)
    atheris.Fuzz()


def main(name: str = "", *options: str) -> int:
    """Fuzz one target, or one after the other, each in a child process; 1 if one broke."""
    names = [n for n in targets.TARGETS if name in (n, "all")]
    if not names:
        raise SystemExit(f"Expected all or one of {', '.join(targets.TARGETS)}; got {name!r}.")
    logging.disable()
    broken = []
    for one in names:
        place = targets.folder()
        child = os.fork()
        if not child:
            fuzz(targets.TARGETS[one], place, list(options))
        try:
            if os.waitpid(child, 0)[1]:
                broken.append(one)
        finally:
            targets.forget_files()
    print(f"{len(names)} targets, broken: {', '.join(broken) or 'none'}")
    return bool(broken)


sys.exit(main(*sys.argv[1:]))
