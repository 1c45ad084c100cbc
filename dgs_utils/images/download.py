"""Downloads: resumed after a broken connection, checked by their hash, and kept."""

from collections.abc import Callable
from pathlib import Path

import pooch
import requests
from filelock import FileLock

from dgs_utils.runtime.progress import no_progress

MIB = 2**20
TIMEOUT_S = 30  # without a byte, after which a connection counts as broken


def fetch(url: str, known_hash: str | None = None, progress: Callable = no_progress) -> Path:
    """Fetch a file once into the user's cache folder and return its path.

    A partial file of a broken connection stays in the cache, and the next attempt requests the rest only. Connections
    are retried as long as each brings more. A cached file with another hash than known ("md5:…" or "sha256:…") is
    downloaded again; ``progress`` wraps the received blocks of 1 MiB.

    Raises:
        ValueError: no network, no space, or another hash than the known one; the sentence gives the manual steps.
    """
    cache = Path(pooch.os_cache("dgs-utils"))
    target = cache / url.rsplit("/", 1)[-1]
    partial = target.with_name(f".{target.name}.partial")

    def continue_partial(url: str, output: str, _) -> None:
        while not _continue(url, partial, progress):
            pass
        partial.replace(output)

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):  # another process may want the same file
            pooch.retrieve(url, known_hash, fname=target.name, path=cache, downloader=continue_partial)
    except (OSError, ValueError) as error:
        reason = f"it has another checksum than {known_hash}" if isinstance(error, ValueError) else error
        raise ValueError(f"{url} could not be downloaded ({reason}); run again to continue, or fetch it on another "
                         f"machine with 'curl -LO {url}' and put it at {target}, or set prepare.root to it") from None
    return target


def _continue(url: str, partial: Path, progress: Callable) -> bool:
    """Open one connection and append what it brings to ``partial``; return whether the file is whole.

    Raises:
        OSError: not a block more than before has come, or the disk is full.
    """
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:  # nothing follows what we have
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return True
                partial.unlink()  # longer than the file: the server has another one now
                return False
            response.raise_for_status()
            continued = response.status_code == requests.codes.partial_content
            rest = int(response.headers.get("Content-Length", 0))
            blocks = progress(response.iter_content(MIB), label=f"{partial.name[1:-8]} (MiB)", total=-(-rest // MIB))
            with partial.open("ab" if continued else "wb") as file:  # a server without range requests starts over
                for block in blocks:
                    file.write(block)
        if rest and partial.stat().st_size < rest + have * continued:
            raise requests.ConnectionError("the connection ended early")  # which old versions of requests do not raise
    except requests.RequestException:
        if not partial.exists() or partial.stat().st_size <= have:
            raise
        return False
    return True
