"""Downloads from a server of our own, which breaks off, knows no ranges, lies about checksums, or goes away."""

import hashlib
import http.server
import re
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from waits import HANG

from dgs_utils.images import download
from dgs_utils.images.builtin_datasets import FASTAI_ARCHIVES
from dgs_utils.images.download import MIB

CONTENT = np.random.default_rng(0).bytes(4_000_000)
KNOWN = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Server:
    """Serves one file; the bytes that each connection brings can be bounded, and ranges forgotten."""

    def __init__(self, content: bytes = CONTENT, limits=(), ranges: bool = True):
        self.content, self.limits, self.ranges = content, list(limits), ranges
        self.starts: list[int] = []  # first byte of each answer
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                size = len(server.content)
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(asked[1]) if asked and server.ranges else 0
                server.starts.append(start)
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    return self.end_headers()
                self.send_response(206 if asked and server.ranges else 200)
                if asked and server.ranges:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Content-Length", str(size - start))
                self.end_headers()
                limit = server.limits.pop(0) if server.limits else size
                self.wfile.write(server.content[start : start + limit])

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/x.tgz"


@contextmanager
def serving(**options):
    server = Server(**options)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join(10)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dgs-utils"


def visible(cache: Path) -> list[str]:
    """Names in the cache that could be taken for a whole file."""
    return sorted(f.name for f in cache.iterdir() if not f.name.startswith("."))


def test_a_file_is_fetched_once_and_kept(cache):
    with serving() as server:
        first = download.fetch(server.url, KNOWN)
        assert first == cache / "x.tgz"
        assert first.read_bytes() == CONTENT
        assert download.fetch(server.url, KNOWN) == first
        assert server.starts == [0]
    assert download.fetch(server.url, KNOWN).read_bytes() == CONTENT  # without a network
    assert not list(cache.glob("*.partial"))


def test_a_broken_connection_is_continued(cache):
    with serving(limits=[MIB + 100, 2 * MIB]) as server:
        assert download.fetch(server.url, KNOWN).read_bytes() == CONTENT
    assert server.starts == [0, MIB, 3 * MIB]  # less than a block is not kept


def test_the_next_call_continues_where_a_dead_network_stopped(cache):
    with serving(limits=[2 * MIB, 0]) as server:
        with pytest.raises(ValueError, match=rf"{server.url} could not be downloaded .*; run again to continue, or "
                                             rf"fetch it on another machine with 'curl -LO {server.url}' and put it at "
                                             rf"{cache}/x.tgz, or set prepare.root to it"):
            download.fetch(server.url, KNOWN)
        assert visible(cache) == []
        assert (cache / ".x.tgz.partial").read_bytes() == CONTENT[: 2 * MIB]
        assert download.fetch(server.url, KNOWN).read_bytes() == CONTENT
    assert server.starts == [0, 2 * MIB, 2 * MIB]


def test_a_server_without_ranges_starts_over(cache):
    with serving(limits=[2 * MIB], ranges=False) as server:
        assert download.fetch(server.url, KNOWN).read_bytes() == CONTENT
    assert server.starts == [0, 0]


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(cache):
    with serving(limits=[2 * MIB] * 50, ranges=False) as server, pytest.raises(ValueError, match="run again"):
        download.fetch(server.url, KNOWN)
    assert len(server.starts) == 2
    assert visible(cache) == []


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"], ids=["whole", "too long"])
def test_a_partial_file_with_nothing_missing_is_settled(cache, left):
    cache.mkdir(parents=True)
    (cache / ".x.tgz.partial").write_bytes(left)
    with serving() as server:
        assert download.fetch(server.url, KNOWN).read_bytes() == CONTENT
    assert server.starts == ([len(CONTENT)] if left == CONTENT else [len(left), 0])


def test_another_checksum_is_refused_and_nothing_of_it_is_kept(cache):
    with serving(content=CONTENT[::-1]) as server:
        with pytest.raises(ValueError, match=f"could not be downloaded .it has another checksum than {KNOWN}.; run"):
            download.fetch(server.url, KNOWN)
        assert visible(cache) == []
        assert not (cache / ".x.tgz.partial").exists()
        server.content = CONTENT
        assert download.fetch(server.url, KNOWN).read_bytes() == CONTENT


def test_a_kept_file_that_was_damaged_is_fetched_anew(cache):
    with serving() as server:
        download.fetch(server.url, KNOWN).write_bytes(CONTENT[:100])
        assert download.fetch(server.url, KNOWN).read_bytes() == CONTENT


def test_a_missing_file_and_a_missing_server_are_told(cache):
    with serving() as server:
        pass
    with pytest.raises(ValueError, match=r"could not be downloaded \(.*[Cc]onnection"):
        download.fetch(server.url)
    handler = type("Missing", (http.server.BaseHTTPRequestHandler,), {"do_GET": lambda self: self.send_error(404)})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(ValueError, match=r"could not be downloaded \(404"):
            download.fetch(f"http://127.0.0.1:{server.server_address[1]}/none.tgz")
    assert visible(cache) == []


def test_a_full_disk_is_told_and_leaves_no_whole_file(cache):
    """The kernel refuses to let files grow past a limit, as it does when a disk is full."""
    program = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
               "from dgs_utils.images import download; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000,) * 2); "
               "download.fetch(sys.argv[1])")
    with serving() as server:
        result = subprocess.run([sys.executable, "-c", program, server.url], capture_output=True, text=True,
                                timeout=HANG)
        assert "ValueError" in result.stderr.splitlines()[-1]
        assert "could not be downloaded ([Errno 27] File too large); run again to continue" in result.stderr
        assert visible(cache) == []
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
        assert download.fetch(server.url, KNOWN).read_bytes() == CONTENT
    assert 0 < server.starts[1] <= 2_000_000


def test_progress_is_shown_in_blocks(cache):
    seen = []

    def progress(blocks, label, total):
        seen.append((label, total))
        yield from blocks

    with serving(limits=[3 * MIB]) as server:
        download.fetch(server.url, KNOWN, progress)
    assert seen == [("x.tgz (MiB)", 4), ("x.tgz (MiB)", 1)]


def test_two_processes_share_one_download(cache):
    program = "import sys; from dgs_utils.images import download; download.fetch(sys.argv[1])"
    with serving(limits=[MIB]) as server:
        processes = [subprocess.Popen([sys.executable, "-c", program, server.url]) for _ in range(2)]
        assert [process.wait(HANG) for process in processes] == [0, 0]
    assert (cache / "x.tgz").read_bytes() == CONTENT
    assert server.starts == [0, MIB]


def test_archives_are_fastai_s():
    prefix = "https://s3.amazonaws.com/fast-ai-imageclas/"
    assert {key: url.removeprefix(prefix) for key, (url, _) in FASTAI_ARCHIVES.items()} == {
        ("imagewoof", "full"): "imagewoof2.tgz", ("imagewoof", "320"): "imagewoof2-320.tgz",
        ("imagewoof", "160"): "imagewoof2-160.tgz", ("imagenette", "full"): "imagenette2.tgz",
        ("imagenette", "320"): "imagenette2-320.tgz", ("imagenette", "160"): "imagenette2-160.tgz"}


def test_checksums_of_imagenette_are_torchvision_s():
    import torchvision.datasets.imagenette as theirs

    for size, name in (("full", "full"), ("320", "320px"), ("160", "160px")):
        url, md5 = theirs.Imagenette._ARCHIVES[name]
        assert FASTAI_ARCHIVES["imagenette", size] == (url, f"md5:{md5}")
