"""Files by their own name, wherever they lie: in a folder, a zip, or a zip inside a zip.

UCI ships zips that nest (``student+performance.zip`` holds ``student.zip``), and how deep has
changed over the years, so nothing here relies on a path.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from pet_lab.checks import require

_MAX_BYTES = 2 * 1024**3
"""Larger than any registered data set unpacked; stops a zip that unpacks without end."""


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """``(base name, content)`` of each wanted file of a folder or of a zip, three may nest.

    A plain file is yielded whatever its name: the content decides. zipfile.BadZipFile if an
    archive is damaged or unpacks to more than 2 GiB, OSError if a file cannot be read.
    """
    if path.is_dir():
        files = (file for file in sorted(path.rglob("*")) if file.is_file() and wanted(file.name))
        yield from ((file.name, file.read_bytes()) for file in files)
    elif zipfile.is_zipfile(path):
        yield from _zip_members(path, wanted, depth=3)
    else:
        damaged = "the file is no zip archive, or its end is missing"
        require(path.suffix.lower() != ".zip", damaged, zipfile.BadZipFile)
        yield path.name, path.read_bytes()


def _zip_members(
    source: Path | io.BytesIO, wanted: Callable[[str], bool], depth: int
) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(source) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        size = sum(info.file_size for info in files)
        require(
            size <= _MAX_BYTES,
            "the archive unpacks to more than 2 GiB; unpack it and name the file",
            zipfile.BadZipFile,
        )
        for info in sorted(files, key=lambda i: i.filename):
            name = PurePosixPath(info.filename).name
            if wanted(name):
                yield name, archive.read(info)
            elif depth > 1 and name.lower().endswith(".zip"):
                yield from _zip_members(io.BytesIO(archive.read(info)), wanted, depth - 1)
