"""Files by their own name, wherever they lie: in a folder, a zip, or a zip inside a zip.

UCI ships zips that nest (``student+performance.zip`` holds ``student.zip``), and how deep has
changed over the years, so nothing here relies on a path.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

__all__ = ["members"]

_MAX_BYTES = 2 * 1024**3
"""Larger than any registered data set unpacked; stops a zip that unpacks without end."""


def members(
    path: Path, wanted: Callable[[str], bool], *, depth: int = 3
) -> Iterator[tuple[str, bytes]]:
    """Yield ``(base name, content)`` of each file under `path` whose base name is `wanted`.

    Parameters
    ----------
    path : Path
        A file, a folder, or a zip archive. A plain file that is itself wanted is yielded as is.
    wanted : callable
        From base name to bool.
    depth : int
        How many zips may nest.

    Raises
    ------
    zipfile.BadZipFile
        If an archive is damaged or unpacks to more than 2 GiB.
    OSError
        If a file cannot be read.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and wanted(file.name):
                yield file.name, file.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from _zip_members(archive, wanted, depth)
    elif path.suffix.lower() == ".zip":
        raise zipfile.BadZipFile("the file is no zip archive, or its end is missing")
    else:
        # A single file given by hand may have any name: the content decides.
        yield path.name, path.read_bytes()


def _zip_members(
    archive: zipfile.ZipFile, wanted: Callable[[str], bool], depth: int
) -> Iterator[tuple[str, bytes]]:
    if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
        raise zipfile.BadZipFile("the archive unpacks to more than 2 GiB")
    for info in sorted(archive.infolist(), key=lambda i: i.filename):
        name = PurePosixPath(info.filename).name
        if info.is_dir():
            continue
        if wanted(name):
            yield name, archive.read(info)
        elif depth > 1 and name.lower().endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(archive.read(info))) as inner:
                yield from _zip_members(inner, wanted, depth - 1)
