"""A small grid to which everything happens, in any order: what counts as finished is always what its inputs make.

Data, parameters and code change; files are damaged, fields of JSON edited; runs, kernels, their fork server and
notebooks by hand are killed, interrupted or stopped, at any of their changes of files or at any moment; two runs, or
two shards of a pool, work side by side. All is drawn evenly: nothing comes again before everything else has come.

As a script it goes on for some seconds, and prints each fault and the counts (see `main`).
"""

import argparse
import atexit
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import interruptions
import psutil
import pytest
import small_grid
import traced_grid
from damage import KINDS, REPLACED, damage, edit, fields
from forks import forked_together
from interruptions import RUNNER
from traced_grid import FILE, RESULT
from waits import HANG, wait_for

from dgs_utils.store.code_fingerprint import code_hashes
from dgs_utils.store.hashing import hash_entry, walk_files
from dgs_utils.store.lock import LOCK, is_locked
from dgs_utils.store.manifest import MANIFEST, VOLATILE
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import expand

KILL, TERM, INT, STOP = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP
TARGETS = [["runner"], ["self"], ["server"], ["runner", "self"], ["runner", "server"], ["server", "self"]]
FAULTS = ("lost", "false", "hung", "left over")


class Disturbed:
    """A workspace of which this knows what every result has to be.

    Args:
        seed: of all draws.
        stopped_s: least and most seconds for which a process is stopped.

    Attributes:
        log: what was drawn, in order.
        counts: of what was done.
        interrupted: whether the last interruption that was planned has happened.
        printed: what the last run apart printed.
    """

    stages: tuple[str, ...] = traced_grid.STAGES
    last_change = 34  # of the changes of files that opening, working and finishing are

    def __init__(self, seed: int, stopped_s: tuple[float, float] = (0.3, 0.6)) -> None:
        self.chance, self.stopped_s = random.Random(seed), stopped_s
        self.log: list[str] = []
        self.interrupted, self.printed, self._kind = False, "", ""
        self.counts: Counter = Counter()
        self._decks: dict[str, list] = {}
        self.root = Path(tempfile.mkdtemp(prefix="dgs-w-"))
        self.workspace = shutil.copytree(self.made(), self.root / "w", symlinks=True)
        self.outputs = self.workspace / "outputs"
        (self.root / "t").mkdir()
        self.patch = pytest.MonkeyPatch()
        self.patch.setenv("DGS_OUTPUTS", str(self.outputs))
        self.patch.chdir(self.workspace)
        self.codes: dict[tuple[str, str], str] = {}  # version by stage and hash
        for stage in self.stages:
            self._note_code(stage)
        self.touched: set[str] = set()  # folders with a file that was damaged, since their last run
        self.good: dict[str, dict[str, bytes]] = {}  # what each finished result holds, by folder
        self.good = self._held()

    @staticmethod
    def made() -> Path:
        """Return a workspace that was run undisturbed; no one may change it."""
        return _made(traced_grid.build)

    def close(self) -> None:
        """Remove everything."""
        self.patch.undo()
        shutil.rmtree(self.root)

    # ---- Drawing ----

    def draw(self, name: str, options: list) -> Any:
        """Return one of some options; each comes once before any comes again."""
        if not self._decks.get(name):
            self._decks[name] = self.chance.sample(options, len(options))
        return self._decks[name].pop()

    def turn(self, kind: str) -> None:
        """Change and damage some things, then do one that works on results.

        Args:
            kind: "hand" for notebooks by hand, which take a tenth of a second; "kills", "stops" or "runs".
        """
        for _ in range(self.chance.randrange(1, 4)):
            self._do("disturbance", self.disturbances())
        works: dict[str, list[Callable[[], None]]] = {
            "hand": [self.two_by_hand, self.shards_by_hand, self.crowd, self.verify, self.clean, self.look],
            "kills": [self.kill_a_run, self.kill_a_run, self.kill_at_some_moment],
            "stops": [self.stop_a_run],
            "runs": [self.run, self.run_with_the_newest_code, self.two_runs, self.verify]}
        if kind == "hand":
            self.kill_by_hand()
            self.kill_by_hand()
        self._do(kind, works[kind])
        if kind == "hand":
            self.finish_by_hand()

    def disturbances(self) -> list[Callable[[], None]]:
        """Return what may happen between two commands."""
        return [self.change_data, self.change_parameter, self.edit_code, self.damage_a_file, self.damage_a_file,
                self.damage_a_file, self.edit_a_field, self.edit_a_field, self.remove_a_result]

    def _do(self, name: str, things: list[Callable[[], None]]) -> None:
        thing = self.draw(name, things)
        self.log.append(thing.__name__)
        thing()

    # ---- What happens ----

    def change_data(self) -> None:
        traced_grid.give(self.workspace, self.draw("data", [*traced_grid.DATA]), self.draw("content", [*"012"]))

    def change_parameter(self) -> None:
        traced_grid.ask(self.workspace, self.draw("seed", [*"01"]))

    def edit_code(self) -> None:
        stage = self.draw("code", [*self.stages])
        traced_grid.write_notebook(self.workspace, stage, f"v{self.draw('version', [*'012'])}")
        self._note_code(stage)

    def damage_a_file(self, folder: Path | None = None) -> None:
        """Of those that decide, and of all that there are, in turns; maybe of one folder alone."""
        files = [file for file in self._files(self.draw("decides", [True, False]))
                 if file.is_relative_to(folder or self.outputs)]
        if files:
            path, others = self.chance.choice(files), self.chance.sample(files, min(3, len(files)))
            kind = self.draw("kind", [*KINDS, *REPLACED])
            if not damage(path, kind, others, self.chance):
                others = []
            self._touch(path, *others)
            self.log.append(f"{kind} {self._inside(path)}")
            self.counts["damages"] += 1

    def edit_a_field(self) -> None:
        name = self.draw("json", [MANIFEST, "*.json"])
        files = [file for file in sorted(self.outputs.rglob(name)) if file.is_file()]
        try:
            file = self.chance.choice(files)
            field = self.chance.choice([*fields(json.loads(file.read_text()))])
            edit(file, field)
        except (IndexError, ValueError, AttributeError, TypeError):  # damaged before, or it has no fields
            return
        self._touch(file)
        self.log.append(f"{self._inside(file)}: {field}")
        self.counts["edits"] += 1

    def remove_a_result(self) -> None:
        self._remove(self.chance.choice(self._plan()))

    def kill_by_hand(self) -> None:
        """Mostly of a result that is made from the beginning, and so that what was begun is gone on with."""
        node = self._plan()[self.draw("by hand", [0, 1, 2, 3])]
        if self.draw("afresh", [True, True, False]):
            self._remove(node)
        for _ in range(self.chance.randrange(1, 3)):
            self._interrupt("by hand", node.stage, self._change(), self.draw("opened", [True, False, False]),
                            self.draw("signal", [KILL, KILL, TERM, INT, STOP]), ["self"], 0.1)
            with self._only_as_it_should():
                self._by_hand([node])
            if self.draw("what was begun", [True, False]):
                self.damage_a_file(node.folder)

    def two_by_hand(self) -> None:
        """The same, at the same time: one does it, and the other takes it."""
        node = self._plan()[self.draw("two by hand", [0, 1, 2, 3])]
        self._remove(node)
        with self._only_as_it_should():
            self._by_hand([node, node], [{}, {}], alone=False)

    def crowd(self) -> None:
        """Two do a stage by hand, and commands look, verify, clean and repair, all at the same time."""
        node = self._plan()[self.draw("crowd", [0, 1, 2, 3])]
        self._verify(repair=True)
        self._remove(node)
        planned = {self._name(node.folder) for node in self._plan()}
        self.good = {name: files for name, files in self.good.items() if name in planned}  # clean removes the others
        commands = [("status", FILE), ("run", FILE, "--dry-run"), ("verify", FILE), ("verify", FILE, "--repair"),
                    ("clean",), ("clean", "--yes")]
        with self._only_as_it_should():
            looks = self.chance.sample(commands, 3)
            self._by_hand([node, node], [{}, {}], alone=False, beside=looks)

    def shards_by_hand(self) -> None:
        """Side by side, which at best end at the same time; now and then one of them is killed."""
        node = next(node for node in self._plan() if node.stage == "02_pool")
        self._remove(node)
        killed = self.draw("shard killed", [True, False, False])
        if killed:
            self._interrupt("by hand", node.stage, self._change(), False, KILL, ["self"])
        with self._only_as_it_should():
            shards = self.draw("shards", [2, 3])
            changes = [{"shard": f"{k + 1}/{shards}"} for k in range(shards)]
            statuses = self._by_hand([node] * shards, changes, alone=False)
            self._check("false", killed or 3 in statuses or self._is_whole(self._name(node.folder)),
                        "shards of a pool have ended, and it is not there")
        self._end_interruption()

    def finish_by_hand(self) -> None:
        """After a repair, as opening a folder reads only its small files."""
        self._verify(repair=True)
        with self._only_as_it_should():
            for node in self._plan():
                self._by_hand([node])
            self._expect_all_done()

    def kill_a_run(self) -> None:
        """At one of the changes of files of the runner or of a notebook that is made again."""
        force = self.draw("force", ["stale", *(stage[3:] for stage in self.stages)])
        who = self.draw("who", [RUNNER, "", "", ""]) or next(
            (stage for stage in self.stages if stage[3:] == force), self.stages[-1])
        number, to = self._signal_to("a run")
        change = self.chance.randrange(3 * len(self.stages)) if who == RUNNER else self._change()
        self._interrupt("of a run", who, change, self.draw("opened", [True, False, False]), number, to)
        with self._only_as_it_should(anew=True):
            status = self._run_apart("--force", force, *self._jobs(), to=to)
        if self.interrupted:
            self._expect_status(status, number, ["runner" if who == RUNNER and name == "self" else name for name in to],
                                early=who == RUNNER)

    def _signal_to(self, what: str) -> tuple[int, list[str]]:
        """Return a signal, and those that it is sent to; a terminal's Ctrl-C reaches no fork server."""
        to = self.draw(f"to {what}", TARGETS)
        signals = [KILL, KILL, TERM] if "server" in to else [KILL, INT, TERM]
        return self.draw(f"signal to {what}: {signals}", signals), to

    def kill_at_some_moment(self) -> None:
        """While libraries are loaded, kernels start or end, or anything else is done."""
        number, to = self._signal_to("a run at a moment")
        self._kind = "kills of a run"
        with self._only_as_it_should(anew=True):
            status = self._run_apart("--force", self.draw("force", ["stale", *(stage[3:] for stage in self.stages)]),
                                     *self._jobs(), to=to, kill=(number, to, self.chance.uniform(0, 4)))
        if self.interrupted:
            self._expect_status(status, number, to, early=True)

    def stop_a_run(self) -> None:
        """And meanwhile do the same by another run or by hand, or not."""
        force, to = self.draw("stop", [stage[3:] for stage in self.stages]), self.draw("stopped", TARGETS)
        who = next(stage for stage in self.stages if stage[3:] == force)
        self._interrupt("of a run", who, self._change(), False, STOP, to, self.chance.uniform(*self.stopped_s))
        with self._only_as_it_should(anew=True):
            status = self._run_apart("--force", force, beside=self.draw("beside", ["", "run", "hand"]))
            self._check("false", status == 0, f"the run's exit status is {status}")
            self._expect_all_done()

    def run(self) -> None:
        with self._only_as_it_should():
            printed = self._dgs("run", FILE, *self._jobs())
            self._expect_all_done()
            self._check("false", "Nothing was left to do." in self._dgs("run", FILE), f"something was left: {printed}")

    def run_with_the_newest_code(self) -> None:
        with self._only_as_it_should(anew=True):
            self._dgs("run", FILE, "--force", "stale", *self._jobs())
            self._expect_all_done()
            for node in self._plan():
                wrong = self._wrong(node.folder, newest=True)
                self._check("false", not wrong, f"not by the newest code: {wrong}")

    def two_runs(self) -> None:
        """Of the same at the same time, or of two shards of the pool."""
        with self._only_as_it_should():
            for node in self.chance.sample(self._plan(), 2):
                self._remove(node)
            self._dgs("run", FILE, "--until", "prepare")
            shards = self.draw("run in shards", [False, True])
            options = [("--only", "pool", "--set", f"pool.shard={k}/2") if shards else () for k in (1, 2)]
            runs = [self._start(*one) for one in options]
            for process in runs:
                status = self._end(process)
                self._check("false", status == 0, f"one of two runs ended with {status}: {self.printed}")
            self._expect_nothing_left()
            self._dgs("run", FILE)
            self._expect_all_done()

    def look(self) -> None:
        before = self._held()
        arguments = self.draw("look", [("status", FILE), ("run", FILE, "--dry-run"), ("clean",)])
        self._dgs(*arguments)
        self._check("lost", self._held() == before, f"{arguments} changed results")

    def clean(self) -> None:
        planned = {self._name(node.folder) for node in self._plan()}
        before = self._held()
        self._dgs("clean", "--yes")
        self._check("lost", {name: held for name, held in self._held().items() if name in planned} ==
                    {name: held for name, held in before.items() if name in planned}, "clean took what a file asks for")
        self.good = {name: held for name, held in self.good.items() if (self.outputs / name).exists()}

    def verify(self) -> None:
        self._verify(self.draw("repair", [True, False]))

    def _verify(self, repair: bool) -> None:
        nodes, held = self._plan(), self._held()
        planned = {self._name(node.folder) for node in nodes}
        hurt = {name: lost for name, lost in self._hurt().items() if name in planned}
        absent = {name for name in planned if not (self.outputs / name / MANIFEST).is_file()}
        printed = self._dgs("verify", FILE, *["--repair"] * repair, status=1 if hurt or absent else None)
        named = {line.split(": ")[0].split("outputs/")[1]: line for line in printed.splitlines() if "DAMAGED" in line}
        for name, lost in hurt.items():
            ours = {file for one in lost for file in (one, one.split("/")[0], MANIFEST)}
            self._check("false", name in absent or any(file in named.get(name, "") for file in ours) or
                        " more" in named.get(name, ""), f"verify names nothing of {name}: {lost}; {printed}")
        counted = sum(map(int, re.findall(r"(\d+) of the plan's", printed)))
        self._check("false", named.keys() <= hurt.keys() | self.touched, f"verify names what is whole: {printed}")
        self._check("false", counted == len(absent - named.keys()), f"{absent} are missing, verify says {printed}")
        if repair:
            marked = {name for name in held.keys() - self._held().keys() if name in self.good}
            kept = [name for name in marked if not (hurt.keys() & {name, *self._above(name)})]
            self._check("lost", not kept, f"repair took what is whole: {kept}")
            self.good = {name: files for name, files in self.good.items() if name not in marked}

    def end(self, runs: bool = True) -> None:
        """Make everything, look at everything, and at what is left over."""
        self.run_with_the_newest_code() if runs else self.finish_by_hand()
        self._verify(False)

    # ---- What must hold ----

    @contextmanager
    def _only_as_it_should(self, anew: bool = False) -> Iterator[None]:
        """Check what becomes of results: what is whole stays, unless made anew; what is new is right; nothing is left.

        Args:
            anew: whether what other code made is made again.
        """
        held, whole = self._held(), [] if anew else [name for name in self.good if self._is_whole(name)
                                                            and name not in self.touched]
        yield
        self._check("left over", not (two := self.workspace / "two at work").exists(), f"two worked at once in {two}")
        now = self._held()
        for name in whole:
            if name in self.good:  # else it was removed on purpose
                self._check("lost", now.get(name) == held[name], f"{name} was whole, and is another now")
        for node in self._plan():
            name = self._name(node.folder)
            if name in self.touched and name in now and now[name][MANIFEST] == held.get(name, {}).get(MANIFEST):
                continue  # damaged files are made again, maybe not all of them yet, and nothing is certified anew
            if name in now and now[name] != held.get(name):
                if self._is_up_to_date(name):
                    wrong = self._wrong(node.folder)
                    self._check("false", not wrong, f"finished, but {wrong}")
                self.good[name] = now[name]

    def _expect_all_done(self) -> None:
        held = self._held()
        for node in self._plan():
            name = self._name(node.folder)
            self._check("false", name in held, f"{name} is not there after a run")
            self._check("false", not (wrong := self._wrong(node.folder)), f"after a run, {wrong}")
            self._check("false", self._is_up_to_date(name), f"after a run, {name} is stale")
            self.touched.discard(name)

    def _expect_status(self, status: int, number: int, to: list[str], early: bool = False) -> None:
        """Check the exit status of a run to which a signal was sent, maybe before all notebooks (``early``)."""
        if "runner" in to:
            right = {KILL: {-KILL}, TERM: {130, -TERM} if early else {130}, INT: {130}}[number]
        else:
            right = {0, 1}  # kernels end with their fork server
        self._check("false", status in right, f"after signal {number} to {to} the run's exit status is {status}, not "
                                              f"{right}: {self.printed}")

    def _wrong(self, folder: Path, newest: bool = False) -> str:
        """Return what of a finished result is not what its data, its inputs and its code make; "" if all is.

        Args:
            folder: the result, of the data that is there now.
            newest: whether only the code that is there now may have made it, and not those that its manifest names.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            stage, hashes = manifest["stage"], [manifest["code"], *manifest["later_code"]]
            inputs = [(self.outputs / source["folder"] / RESULT).read_text() for source in manifest["inputs"]]
            versions = {traced_grid.version_of(self.workspace, stage)} if newest else {
                self.codes[stage, one["notebook"]] for one in hashes}
            data = traced_grid.data_in(self.workspace / "data" / traced_grid.DATA.get(stage, "none"))
            expected = traced_grid.lines(stage, manifest["params"], data, inputs)
            parts = [(folder / "images" / f"{number}.txt").read_text() for number in range(traced_grid.PARTS)]
            right = all(part in {f"{version} {line}" for version in versions}
                        for part, line in zip(parts, expected, strict=True))
            return "" if right and (folder / RESULT).read_text() == "".join(parts) else \
                f"{folder} holds {parts}, {(folder / RESULT).read_text()}; from {versions} it is {expected}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{folder}: {error!r}"

    def _is_up_to_date(self, name: str) -> bool:
        """Return whether a result's manifest names what its inputs hold now, and so do theirs."""
        manifest = self._manifest(name)
        return bool(manifest) and all(
            self._is_up_to_date(source["folder"]) and self._reads(source, self._manifest(source["folder"]))
            for source in manifest["inputs"])

    @staticmethod
    def _reads(source: dict, manifest: dict) -> bool:
        content = manifest["chain"][source["count"] - 1] if source.get("count") else manifest["content"]
        return content == source["content"]

    def _is_whole(self, name: str) -> bool:
        hurt = self._hurt()
        return not hurt.keys() & {name, *self._above(name)} and self._is_up_to_date(name)

    def _above(self, name: str) -> set[str]:
        """Return what a result was made of, directly or by way of others, as its manifest said when it was whole."""
        manifest = json.loads(self.good.get(name, {}).get(MANIFEST, b'{"inputs": []}'))
        inputs = [source["folder"] for source in manifest["inputs"]]
        return {*inputs, *(above for one in inputs for above in self._above(one))}

    def _manifest(self, name: str) -> dict:
        try:
            return json.loads((self.outputs / name / MANIFEST).read_text())
        except (OSError, ValueError):
            return {}

    def _decides(self, folder: Path) -> set[str]:
        """Return the names of the files that decide in a folder."""
        return traced_grid.DECIDES | {MANIFEST}

    def _held(self) -> dict[str, dict[str, bytes]]:
        """Return what decides of each folder that has a manifest."""
        folders = [path.parent for path in self.outputs.glob(f"*/*/{MANIFEST}") if path.is_file()]
        return {self._name(folder): {name: path.read_bytes() for name in self._decides(folder)
                                     if (path := folder / name).is_file()} for folder in folders}

    def _hurt(self) -> dict[str, list[str]]:
        """Return which files are not what they were when their results were finished, by folder."""
        lost = {name: [file for file in files if not (path := self.outputs / name / file).is_file()
                       or path.read_bytes() != files[file]] for name, files in self.good.items()}
        return {name: files for name, files in lost.items() if files}

    def _inside(self, path: Path) -> str:
        return path.relative_to(self.outputs).as_posix()

    def _touch(self, *files: Path) -> None:
        self.touched |= {"/".join(file.relative_to(self.outputs).parts[:2]) for file in files}

    def _remove(self, node) -> None:
        """Remove a result, as a user does."""
        if node.folder.exists():
            shutil.rmtree(node.folder)
        self.good.pop(self._name(node.folder), None)

    def _files(self, decides: bool) -> list[Path]:
        """Return the files that may be damaged; of a lock file, that holds nothing, the command names it if need be."""
        files = [path for path in sorted(self.outputs.rglob("*")) if path.is_file() and not path.is_symlink()
                 and not path.name.startswith(LOCK)]
        return [path for path in files if not decides or
                path.relative_to(folder := self.outputs.joinpath(*path.relative_to(self.outputs).parts[:2])).as_posix()
                in self._decides(folder)]

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.outputs).as_posix()

    def _plan(self) -> list:
        return expand(read_experiment(Path(FILE)))

    def _change(self) -> int:
        return self.draw("change", list(range(self.last_change)))

    def _jobs(self) -> list[str]:
        return self.draw("jobs", [[], ["--jobs", "2"]])

    def _note_code(self, stage: str) -> None:
        self.codes[stage, code_hashes(stage)["notebook"]] = traced_grid.version_of(self.workspace, stage)

    # ---- How it is done ----

    def _dgs(self, *arguments: str, status: int | None = 0) -> str:
        result = small_grid.dgs(self.workspace, *arguments)
        printed = result.stdout + result.stderr
        self._check("false", "Traceback" not in printed, printed)
        ended = result.returncode
        self._check("false", status in (ended, None), f"{arguments} ended with {ended}, not {status}: {printed}")
        return printed

    def _by_hand(self, nodes: list, changes: list[dict] | None = None, alone: bool = True,
                 beside: Sequence[tuple[str, ...]] = ()) -> list[int]:
        """Do a stage as a user does, or some at the same time, and commands beside; return the exit statuses."""
        calls, ready = [], True
        for node, change in zip(nodes, changes or [{}] * len(nodes), strict=True):
            inputs = {name: str(source.folder) for name, source in node.inputs.items()}
            ready = ready and all(self._is_whole(self._name(Path(folder))) for folder in inputs.values())
            calls.append([str(self.workspace), node.stage, node.params.model_dump(mode="json") | inputs | change])
        calls += [[str(self.workspace), "dgs", {"arguments": command}] for command in beside]
        statuses = _forks()(calls)
        for command in beside:
            status, printed = statuses.pop(len(nodes)), traced_grid.printed_file(self.workspace, command).read_text()
            self._check("false", status in (0, 1) and "Traceback" not in printed, f"{command}: {status}, {printed}")
        interrupted = alone and self._end_interruption()
        for status in statuses:
            self._check("false", status in (0, 3) or interrupted or self._planned(),
                        f"a notebook by hand ended with {status}")
            self._check("false", status != 3 or not (ready and alone),
                        f"{nodes[0].folder} was refused with whole inputs")
        return statuses

    def _run_apart(self, *options: str, to: Sequence[str] = (), beside: str = "",
                   kill: tuple[int, list[str], float] | None = None) -> int:
        """Run the grid in a process of its own; return its exit status.

        Args:
            options: of the command.
            to: those that an interruption is sent to; the fork server removes what a runner leaves that is killed.
            beside: what is done while it is stopped: "run", "hand" or "".
            kill: a signal, those that it is sent to, and the seconds after which that is done.
        """
        (self.root / "printed").unlink(missing_ok=True)
        process = self._start(*options)
        if beside:
            wait_for(lambda: process.poll() is not None or self._done_file().exists())
            self._dgs("run", FILE) if beside == "run" else [self._by_hand([node], alone=False) for node in self._plan()]
        if kill:
            self._signal(process, *kill)
        status = self._end(process)
        self._end_interruption()
        self._expect_nothing_left(folders=not (status == -KILL and "server" in to))
        return status

    def _signal(self, process: subprocess.Popen, number: int, to: list[str], seconds: float) -> None:
        wait_for(lambda: (self.workspace / RUNNER).exists() or process.poll() is not None)
        time.sleep(seconds)
        server = interruptions.server_of(process.pid)
        kernels = [other.pid for other in self._processes() if other.pid not in (process.pid, server)]
        pids = {"runner": [process.pid], "server": [server] if server else [], "self": kernels}
        chosen = [pid for name in to for pid in pids[name]]
        if process.poll() is None and chosen:
            self._done_file().touch()
            for pid in chosen:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _start(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, interruptions.__file__, "run", FILE, *options]
        with (self.root / "printed").open("a") as output:
            return subprocess.Popen(command, cwd=self.workspace, stdout=output, stderr=subprocess.STDOUT,
                                    env=small_grid.environment(self.workspace) | {"TMPDIR": str(self.root / "t")})

    def _end(self, process: subprocess.Popen) -> int:
        """Wait for a run, check what it leaves, and return its exit status."""
        try:
            process.wait(HANG)
        except subprocess.TimeoutExpired:
            self._check("hung", False, "the run hangs")
        self.printed = (self.root / "printed").read_text()
        self._check("false", "Traceback" not in self.printed, self.printed)
        return process.returncode

    def _done_file(self) -> Path:
        return self.workspace / f"{interruptions.PLAN}.done"

    def _interrupt(self, where: str, *how) -> None:
        self._kind = f"{'stops' if how[3] == STOP else 'kills'} {where}"
        self.log.append(f"{how}")
        interruptions.plan(self.workspace, *how)

    def _planned(self) -> bool:
        return self._done_file().exists() or (self.workspace / interruptions.PLAN).exists()

    def _end_interruption(self) -> bool:
        """Forget what was planned; return whether it happened."""
        self.interrupted = self._done_file().exists()
        for file in (interruptions.PLAN, f"{interruptions.PLAN}.done", RUNNER):
            (self.workspace / file).unlink(missing_ok=True)
        if self.interrupted:
            self.counts[self._kind] += 1
        return self.interrupted

    def _expect_nothing_left(self, folders: bool = True) -> None:
        for other in self._processes():
            with suppress(psutil.NoSuchProcess):
                self._check("left over", _ends(other), f"{other} is left")
        for lock in self.outputs.rglob(f"{LOCK}*"):
            wait_for(lambda lock=lock: not lock.is_file() or not is_locked(lock))  # by a process that is about to end

        for name in os.listdir(self.root / "t"):
            self._check("left over", not folders, f"the temporary folder {name} is left")
            shutil.rmtree(self.root / "t" / name)

    def _processes(self) -> list[psutil.Process]:
        """Return the processes that run with this one's temporary folder."""
        mine, processes = f"TMPDIR={self.root / 't'}", []
        for process in psutil.process_iter():
            with suppress(OSError):
                if mine.encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                    processes.append(process)
        return processes

    def _check(self, kind: str, holds: object, sentence: str) -> None:
        if not holds:
            raise AssertionError(f"{kind}: {sentence}")


class DisturbedReal(Disturbed):
    """The same with the real notebooks, of which what an undisturbed run made is known."""

    stages = ("00_prepare", "01_fine_tune", "02_pool", "03_difficulty", "04_transform", "05_sample", "06_evaluate")
    last_change = 60

    @staticmethod
    def made() -> Path:
        return _made(_build_real)

    def disturbances(self) -> list[Callable[[], None]]:
        return [self.edit_code, self.damage_a_file, self.damage_a_file, self.edit_a_field, self.remove_a_result]

    def edit_code(self) -> None:
        """Another remark, which makes the same."""
        path = self.workspace / "notebooks" / f"{self.draw('code', [*self.stages])}.ipynb"
        path.write_text(re.sub("# version .", f"# version {self.draw('version', [*'012'])}", path.read_text()))

    def _note_code(self, stage: str) -> None:
        """Any code makes the same."""

    def _wrong(self, folder: Path, newest: bool = False) -> str:
        other = self.made() / "outputs" / self._name(folder)
        right = {name: hash_entry(other / name) for name in self._decides(other) - {MANIFEST}}
        held = {name: hash_entry(folder / name) for name in right if (folder / name).exists()}
        return "" if held == right else f"{folder} holds {held}, undisturbed it is {right}"

    def _decides(self, folder: Path) -> set[str]:
        return {name for name, _ in walk_files(folder) if name.partition("/")[0] not in VOLATILE} | {MANIFEST}


def _build_real(folder: Path) -> Path:
    small_grid.build_real(folder)
    arm = (f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
           "import interruptions\ninterruptions.arm(Path.cwd(), STAGE)\n# version 0\n")
    for stage in DisturbedReal.stages:
        notebook = json.loads((folder / "notebooks" / f"{stage}.ipynb").read_text())
        cell = next(cell for cell in notebook["cells"] if "".join(cell["source"]).startswith("run = dgs.stage("))
        cell["source"] = arm.replace("STAGE", repr(stage)) + "".join(cell["source"])
        (folder / "notebooks" / f"{stage}.ipynb").write_text(json.dumps(notebook))
    return folder


@cache
def _made(build: Callable[[Path], Path]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dgs-w-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    workspace = build(folder / "w")
    result = small_grid.dgs(workspace, "run", FILE)
    assert result.returncode == 0, result.stdout + result.stderr
    return workspace


@cache
def _forks() -> Callable[[list[list]], list[int]]:
    """Return what does stages by hand, in forks of a process that lasts as long as this one."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(forked_together(traced_grid.PROGRAM))


def _ends(process: psutil.Process) -> bool:
    try:
        process.wait(HANG)
        return True
    except psutil.TimeoutExpired:
        return False


def disturb(kind: str, seed: int, turns: int, stopped_s: tuple[float, float] = (0.3, 0.6)) -> tuple[Counter, str]:
    """Disturb a workspace; return what was done, and the fault that was found with all that led to it, or "".

    Args:
        kind: of `Disturbed.turn`; "mixed" for all kinds in turns, and "real" for that with the real notebooks.
        seed: of all draws.
        turns: how many turns.
        stopped_s: least and most seconds for which a process is stopped.
    """
    grid = (DisturbedReal if kind == "real" else Disturbed)(seed, stopped_s)
    kinds = {"mixed": ["hand", "kills", "stops", "runs"], "real": ["kills", "kills", "stops", "runs"]}.get(kind, [kind])
    try:
        for turn in range(turns):
            grid.counts["turns"] += 1
            grid.turn(kinds[turn % len(kinds)])
        grid.end(runs=kind != "hand")
        fault = ""
    except Exception as error:  # a command that fails in this process is a fault, too
        error = error if isinstance(error, AssertionError) else AssertionError(f"false: {error!r}")
        fault = f"{error}\nafter seed {seed}: {'; '.join(grid.log)}"
        grid.counts[str(error).partition(":")[0]] += 1
    finally:
        grid.close()
    return grid.counts, fault


def main() -> int:
    """Disturb workspaces of some kind for some seconds, one after another; print each fault and the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["hand", "kills", "stops", "runs", "mixed", "real"])
    parser.add_argument("--seed", type=int, default=0, help="of the first workspace")
    parser.add_argument("--seconds", type=float, default=60, help="after which no workspace is begun")
    parser.add_argument("--turns", type=int, default=12, help="in each workspace")
    parser.add_argument("--stopped", type=float, nargs=2, default=(0.3, 0.6), help="seconds for which it is stopped")
    parser.add_argument("--until-found", action="store_true", help="end with the first fault")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where a script's & has it ignored
    counts, begun, seed = Counter(), time.monotonic(), options.seed
    while time.monotonic() - begun < options.seconds or seed == options.seed:
        done, fault = disturb(options.kind, seed, options.turns, tuple(options.stopped))
        counts, seed = counts + done, seed + 1
        print(fault, end="\n" * bool(fault))
        print(json.dumps({"seed": seed - 1, "seconds": round(time.monotonic() - begun), **counts}), flush=True)
        if fault and options.until_found:
            break
    return int(any(counts[fault] for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
