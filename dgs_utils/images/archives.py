"""Archives of images from anywhere: unpacked within bounds, without links, and with plain names only."""

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
from pathlib import Path
from typing import IO, Any, NamedTuple

from dgs_utils.artifacts.names import check_relative
from dgs_utils.images.lists import SPLITS
from dgs_utils.images.trees import ARCHIVES, is_hidden, looks_like_image
from dgs_utils.params import PoolParams, PrepareParams

PACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # by how their files begin
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError,
          RuntimeError, NotImplementedError)  # the last two: a password, and unknown compression
BLOCK = 2**20
HEADERS = 2**26  # bytes around the files of a tar archive; names take some hundred each


class Bounds(NamedTuple):
    """What an archive may unpack to.

    Attributes:
        size: bytes in all.
        members: files.
        ratio: times the archive's own size, once that is more than 64 MiB; photographs have 1, whole bombs 1,000.
    """

    size: int = 2**39
    members: int = 5_000_000
    ratio: float = 100.0


BOUNDS = Bounds()


def bounds_of(params: PrepareParams | PoolParams) -> Bounds:
    """Return the bounds that a stage's parameters give."""
    return Bounds(int(params.unpack_gib * 2**30), params.unpack_files, params.unpack_ratio)


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    link: bool
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Return whether a file is called as archives are."""
    return path.name.lower().endswith(ARCHIVES)


def unpack_all(archives: list[Path], target: Path, bounds: Bounds = BOUNDS) -> None:
    """Unpack some archives side by side.

    One that is called as a split, such as ``val.zip``, and holds no folder of a split, gets a folder of its name.

    Raises:
        ValueError: as `unpack`.
    """
    for archive in archives:
        name = archive.name.partition(".")[0]
        unpack(archive, target / name if len(archives) > 1 and _is_split(archive, name, bounds) else target, bounds)


def _is_split(archive: Path, name: str, bounds: Bounds) -> bool:
    if name.lower() not in SPLITS:
        return False
    with _opened(archive, bounds) as members:
        return not any(member.name.removeprefix("./").split("/")[0].lower() in SPLITS for member in members)


def unpack(archive: Path, target: Path, bounds: Bounds = BOUNDS) -> None:
    """Unpack a zip or tar archive. Hidden and system files in it are left out.

    Raises:
        ValueError: not an archive, damaged, beyond the bounds, with a link, with a name that leads elsewhere, or with
            an image that is in ``target`` already; the sentence names the archive.
    """
    most, total = _most(archive, bounds)[0], 0
    with _opened(archive, bounds) as members:
        if len(members) > bounds.members:
            raise ValueError(f"{archive} holds more than {bounds.members:,} files; if you "
                             f"trust it, raise unpack_files, or unpack it and give the folder")
        for member in members:
            path = check_relative(member.name, f"{archive}: a member")
            if any(map(is_hidden, path.parts)):
                continue
            if member.link:
                raise ValueError(f"{archive} holds {member.name}, which is a link or device; pack the files themselves")
            place = target / path
            if place.exists():
                if looks_like_image(place) or place.suffix == ".cls":
                    raise ValueError(f"{archive} holds {member.name}, which it or another archive beside it held "
                                     f"already; unpack each into a folder of its own, and give the folder")
                continue
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise ValueError(f"{archive} holds {member.name}, and a file where its folder should be; unpack it "
                                 f"yourself, and give the folder") from None
            with member.open() as source, place.open("wb") as file:
                while block := source.read(BLOCK):
                    total += len(block)
                    if total > most:
                        raise _too_large(archive, bounds)
                    file.write(block)


def _most(archive: Path, bounds: Bounds) -> tuple[int, str]:
    """Return to how many bytes an archive may unpack, and the parameter that says so."""
    by_ratio = max(2**26, bounds.ratio * archive.stat().st_size)
    most, name = min((bounds.size, "unpack_gib"), (by_ratio, "unpack_ratio"))
    return int(most), name


def _too_large(archive: Path, bounds: Bounds) -> ValueError:
    most, name = _most(archive, bounds)
    return ValueError(f"{archive} ({archive.stat().st_size:,} bytes) unpacks to more than {most:,} bytes; if you trust "
                      f"it, raise {name}, or unpack it and give the folder")


@contextmanager
def _opened(path: Path, bounds: Bounds) -> Iterator[list[Member]]:
    """List an archive's files, at most one beyond the bounds, and yield them; its damage becomes a sentence."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                yield [Member(info.filename.replace("\\", "/"), stat.S_ISLNK(info.external_attr >> 16),
                              partial(zipped.open, info)) for info in zipped.infolist() if not info.is_dir()]
        else:
            with _Bounded(path, bounds) as stream, tarfile.open(fileobj=stream, mode="r:") as file:
                found = (Member(info.name, not info.isreg(), partial(_open_regular, file, info))
                         for info in file if not info.isdir())
                listed = list(islice(found, bounds.members + 1))
                while len(listed) <= bounds.members and stream.read(BLOCK):  # to the checksum, after the last member
                    pass
                yield listed
    except DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        if "password" in reason:
            raise ValueError(f"{path} is encrypted; unpack it with its password, and give the folder") from None
        cure = "delete it and fetch it again" if is_archive(path) else "unpack it yourself, and give the folder"
        raise ValueError(f"{path} cannot be unpacked ({reason}); {cure}") from None


class _Bounded:
    """What a packed tar archive unpacks to, as a stream that goes no further than its bounds, nor far at once.

    Whatever stands before, between and behind the files counts, which `tarfile` reads before anybody sees it.
    """

    def __init__(self, path: Path, bounds: Bounds):
        with path.open("rb") as file:
            start = file.read(6)
        packer: Any = next((packer for mark, packer in PACKERS.items() if start.startswith(mark)), open)
        self.stream: Any = packer(path, "rb")
        self.path, self.bounds, self.most = path, bounds, _most(path, bounds)[0] + HEADERS
        self.tell, self.close = self.stream.tell, self.stream.close

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        return self._step(self.stream.read, size, size <= HEADERS and self.tell() <= self.most)

    def seek(self, place: int) -> int:
        return self._step(self.stream.seek, place, place <= self.most)

    def _step(self, step: Callable, number: int, within: bool) -> Any:
        if not within:
            raise _too_large(self.path, self.bounds)
        try:
            return step(number)
        except OSError as error:
            if error.errno is not None:
                raise
            raise tarfile.ReadError(str(error)) from None  # bz2 has no error of its own


def _open_regular(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    found = archive.extractfile(info)
    if found is None:
        raise tarfile.ExtractError(f"{info.name} is no file")
    return found
