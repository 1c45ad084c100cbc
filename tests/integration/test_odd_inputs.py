"""Whatever is in a file or behind --set, a command ends soon, with one sentence or none, and leaves results alone.

``DGS_SOAK`` asks for ten times as many inputs.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import small_grid
from small_grid import contents, dgs

FILE = "params/small.yaml"
COUNT = 300 if os.environ.get("DGS_SOAK") else 30
COMMANDS = [("status", FILE), ("run", FILE, "--dry-run"), ("verify", FILE), ("clean",)]
VALUES = ["", "null", "[]", "{}", "[[[[]]]]", "-1", "0", "1e999", ".nan", "9" * 400, "'\\0'", "\"\\x00\"", "..", "/",
          "~", "~nobody/x", "/dev/zero", "/proc/self/mem", "*", "{0}", "{x: 1}", "[1, [2]]", "true", "2026-11-30",
          "!!int x", "!!python/name:os.system", "&a [*a]", "<<: {}", "? x", "\u202e", "\U0001f600", "\ud800x",
          "a" * 5000, "%s", "$(x)", "\x1b[2J", "0x10", "1_000", "1:30", "=", "-", "|", ">", "@", "`", "\t",
          "x: y: z", "#", "---", "..."]
NAMES = ["sample.method", "sample.ipc", "sample.seed", "pool.images_per_class", "pool.root", "pool.shard",
         "prepare.root", "prepare.classes", "prepare.dataset", "evaluate.repeats", "evaluate.network",
         "transform.weight", "x.y", "sample", "sample.", ".ipc", "sample.ipc.x", "grid", "name", "", "sample.output"]
JSONS = ["manifest.json", "inputs.json", "checksums.json", "asked.json", "failure.json", "progress.json", ".holder"]


@pytest.fixture
def workspace(tmp_path, tmp_path_factory) -> Path:
    return shutil.copytree(small_grid.finished(tmp_path_factory.getbasetemp())[0], tmp_path / "w")


def odd_option(workspace: Path, chance: random.Random) -> tuple[str, ...]:
    """Ask for anything by --set."""
    return "--set", f"{chance.choice(NAMES)}{chance.choice(['=', '=', '=', ':', ''])}{chance.choice(VALUES)}"


def odd_file(workspace: Path, chance: random.Random) -> tuple[str, ...]:
    """Damage the experiment file, or put something odd into it."""
    path = workspace / FILE
    text = path.read_text().encode()
    place, value = chance.randrange(len(text)), chance.choice(VALUES).encode(errors="surrogatepass")
    path.write_bytes(chance.choice([text[:place], text[:place] + value + text[place:], value, value + b"\n" + text,
                                    text + chance.choice(NAMES).replace(".", ": {").encode() + b": " + value + b"}\n",
                                    text[:place] + bytes([chance.randrange(256)]) + text[place + 1 :]]))
    return ()


def odd_json(workspace: Path, chance: random.Random) -> tuple[str, ...]:
    """Put anything into a file of a result's folder."""
    folder = chance.choice(sorted((workspace / "outputs").glob("[0-9]*/*")))
    value = chance.choice([b"", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 5000, b"1e999", b"null", b"NaN", b"9" * 5000,
                           json.dumps(chance.choice(VALUES)).encode(), b'{"error": 3, "command": {}, "checksum": []}'])
    (folder / chance.choice(JSONS)).write_bytes(value)
    return ()


@pytest.mark.parametrize("odd", [odd_option, odd_file, odd_json])
def test_an_odd_input_is_a_sentence(workspace: Path, odd: Callable[[Path, random.Random], tuple[str, ...]]) -> None:
    chance, text = random.Random(odd.__name__), (workspace / FILE).read_text()
    kept = shutil.copytree(workspace / "outputs", workspace / "kept")
    before = contents(workspace)
    for number in range(COUNT):
        command, options = COMMANDS[number % len(COMMANDS)], odd(workspace, chance)
        if command[0] != "clean":
            command += options
        what = f"{command} with {(workspace / FILE).read_bytes()[:300]!r}"
        result = dgs(workspace, *command)
        assert result.returncode in (0, 1, 2), what
        assert "Traceback" not in result.stdout + result.stderr, what
        assert result.stderr.count("\n") == (result.returncode == 2), (what, result.stderr)
        assert "\x1b" not in result.stdout + result.stderr, what
        for path in [file for name in JSONS for file in (workspace / "outputs").glob(f"*/*/{name}")]:
            was = kept / path.relative_to(workspace / "outputs")
            path.write_bytes(was.read_bytes()) if was.exists() else path.unlink()
        (workspace / FILE).write_text(text)
    assert contents(workspace) == before
