"""Zip and tar archives of images: unpacked up to fixed limits, without links, and below the target folder only."""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dgs_utils.images.folder_roles import SPLITS
from dgs_utils.images.scan import ARCHIVES, is_hidden, list_folder, looks_like_image
from dgs_utils.store.filenames import check_relative

MAX_BYTES = 2**39  # that one archive unpacks to
MAX_FILES = 5_000_000  # in one archive
MAX_RATIO = 100  # of unpacked bytes to packed ones; photographs have 1, archives made to fill a disk 1,000
MIN_LIMITED_BYTES = 2**26  # below which the ratio does not count
MAX_HEADER_BYTES = 2**26  # of what a tar archive holds besides its files; a name takes some hundred
BLOCK_BYTES = 2**20
DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # by a file's first bytes
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError,
          RuntimeError, NotImplementedError)  # the last two: a password, and unknown compression


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    is_link: bool
    open: Callable[[], Any]


def archives_in(root: Path) -> list[Path]:
    """Return the archives directly in a folder, else those of its folder ``data``, as repositories of the hub have."""
    archives = [root / file for file in list_folder(root)[1] if file.lower().endswith(ARCHIVES)]
    return archives if archives or not (root / "data").is_dir() else archives_in(root / "data")


def unpack_all(archives: list[Path], target: Path) -> None:
    """Unpack some archives into one folder.

    One of several that has the name of a split, such as ``val.zip``, and holds no folder of a split is unpacked into a
    folder of its name. Errors are those of `unpack`.
    """
    for archive in archives:
        name = archive.name.partition(".")[0]
        unpack(archive, target / name if len(archives) > 1 and _is_split(archive, name) else target)


def _is_split(archive: Path, name: str) -> bool:
    if name.lower() not in SPLITS:
        return False
    with _members(archive) as members:
        return not any(member.name.removeprefix("./").split("/")[0].lower() in SPLITS for member in members)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or tar archive without its hidden and system files.

    Raises:
        ValueError: no archive, damaged, beyond a limit of this module, with a link or a name that leads elsewhere, or
            with an image that is in ``target`` already; the sentence names the archive.
    """
    limit, total = _max_bytes(archive), 0
    with _members(archive) as members:
        for member, path in _checked(archive, members):
            output = target / path
            if output.exists():
                if looks_like_image(output):
                    raise ValueError(f"{archive} holds {member.name}, which it or another archive beside it held "
                                     f"already; unpack each into a folder of its own, and give the folder")
                continue
            try:
                output.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise ValueError(f"{archive} holds {member.name}, and a file where its folder should be; unpack it "
                                 f"yourself, and give the folder") from None
            with member.open() as source, output.open("wb") as file:
                while block := source.read(BLOCK_BYTES):
                    total += len(block)
                    if total > limit:
                        raise _too_large(archive)
                    file.write(block)


def check_archive(archive: Path) -> None:
    """Check the names of what is in an archive that another library reads, as `unpack` does.

    Raises:
        ValueError: as `unpack`.
    """
    with _members(archive) as members:
        for _ in _checked(archive, members):
            pass


def _checked(archive: Path, members: list[Member]) -> Iterator[tuple[Member, PurePosixPath]]:
    """Yield the visible members with their paths, after checking these."""
    if len(members) > MAX_FILES:
        raise ValueError(f"{archive} holds more than {MAX_FILES:,} files; if you trust it, unpack it, and give the "
                         f"folder")
    for member in members:
        path = check_relative(member.name, f"{archive}: a member")
        if any(map(is_hidden, path.parts)):
            continue
        if member.is_link:
            raise ValueError(f"{archive} holds {member.name}, which is a link or device; pack the files themselves")
        yield member, path


def _max_bytes(archive: Path) -> int:
    return min(MAX_BYTES, max(MIN_LIMITED_BYTES, MAX_RATIO * archive.stat().st_size))


def _too_large(archive: Path) -> ValueError:
    return ValueError(f"{archive} ({archive.stat().st_size:,} bytes) unpacks to more than {_max_bytes(archive):,} "
                      f"bytes; if you trust it, unpack it, and give the folder")


@contextmanager
def _members(path: Path) -> Iterator[list[Member]]:
    """Yield an archive's files, at most one more than allowed; damage becomes a ValueError of one sentence."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                yield [Member(info.filename.replace("\\", "/"), stat.S_ISLNK(info.external_attr >> 16),
                              partial(zipped.open, info)) for info in zipped.infolist() if not info.is_dir()]
        else:
            with _TarStream(path) as stream, tarfile.open(fileobj=stream, mode="r:") as file:
                members = (Member(info.name, not info.isreg(), partial(file.extractfile, info))
                           for info in file if not info.isdir())
                yield list(islice(members, MAX_FILES + 1))
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        if "password" in reason:
            raise ValueError(f"{path} is encrypted; unpack it with its password, and give the folder") from None
        is_named_so = path.name.lower().endswith(ARCHIVES)
        cure = "delete it and fetch it again" if is_named_so else "unpack it yourself, and give the folder"
        raise ValueError(f"{path} cannot be unpacked ({reason}); {cure}") from None


class _TarStream:
    """A decompressed tar archive that is whole and within the limits, also in what is between its files.

    A read of more than `MAX_HEADER_BYTES` is refused: `tarfile` would load a header of any claimed size into memory.
    """

    def __init__(self, path: Path):
        with path.open("rb") as file:
            start = file.read(6)
        decompress: Any = next((opener for mark, opener in DECOMPRESSORS.items() if start.startswith(mark)), open)
        self.stream: Any = decompress(path, "rb")
        self.seek, self.tell, self.close = self.stream.seek, self.stream.tell, self.stream.close
        while self.stream.read(BLOCK_BYTES):
            if self.tell() > _max_bytes(path) + MAX_HEADER_BYTES:
                raise _too_large(path)
        self.seek(0)

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size / 2**20:,.0f} MiB")
        return self.stream.read(size)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
