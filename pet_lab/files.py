"""Files that are complete or absent, hashes, canonical JSON, durations: neutral, for every room."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text. NaN, inf: ValueError.

    >>> canonical_json({"b": [1, 2], "a": "é"})
    '{"a":"é","b":[1,2]}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


@contextlib.contextmanager
def replacing(path: Path, *, secret: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream whose content replaces `path` when the block ends without an error.

    A reader, or a crash, finds the old content or the new, never a part; after an error nothing is
    left behind. With `secret` only the owner may read or write it (0600 from its first byte).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o600 if secret else 0o666), "wb") as stream:
            yield stream
            stream.flush()
            # Without fsync a power cut can leave the new name pointing at an empty file.
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the name that the caller knows
        raise


def write_atomic(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Write `data` to `path` as `replacing` does."""
    with replacing(path, secret=secret) as stream:
        stream.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; as `replacing` does. NaN and infinities are a ValueError."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def why(error: OSError, where: Path | str) -> str:
    """An OSError on writing `where` as one sentence for the user, with the likely fix."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space is left to write {where}: free some space and run the same command again."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            f"{where} cannot be written ({error.strerror}): make the folder writable "
            "or choose another workspace, then run the same command again."
        )
    return f"{where} cannot be written: {error.strerror or error}."


def duration(seconds: float) -> str:
    """Seconds as text, in at most two units.

    >>> [duration(s) for s in (0.25, 4.2, 59, 200, 7500, 200_000)]
    ['0.2 s', '4.2 s', '59 s', '3 min 20 s', '2 h 5 min', '2 d 7 h']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    total = round(seconds)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for i, (unit, size) in enumerate(units):
        if total >= size:
            rest = total % size // units[i + 1][1] if i < 3 else 0
            return f"{total // size} {unit}" + (f" {rest} {units[i + 1][0]}" if rest else "")
    return "0 s"
