"""Faults of kinds that this kit once had, planted into a copy of the package, which shows what a test would find.

As a script it plants each fault that is named, all if none is, and prints what `disturbed` finds of it and when.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import disturbed

PACKAGE = Path(__file__).resolve().parents[2] / "dgs_utils"


@dataclass(frozen=True)
class Fault:
    """A fault: what is changed in which files, and the kind of disturbance (see `disturbed`) that finds it.

    Attributes:
        kind: of `disturbed.disturb`.
        edits: a file, its text, and what takes the text's place.
    """

    kind: str
    edits: tuple[tuple[str, str, str], ...]


FAULTS = {
    "partial results are believed without their checksums": Fault("hand", (
        ("store/partial_results.py", "    if not path.exists():\n        return False\n",
         "    return path.exists()\n"),)),
    "inputs of begun work are not compared": Fault("hand", (
        ("store/resume.py", "if not any(input_unchanged(before, now) for now in same):", "if False:"),)),
    "a stale folder is not emptied": Fault("hand", (
        ("store/resume.py", "        empty(folder)\n        print(",
         "        remove_path(folder / MANIFEST)\n        print("),)),
    "half a file gets its name": Fault("hand", (
        ("store/atomic.py", "        yield partial\n",
         "        partial = path\n        yield partial\n        return\n"),
        ("store/atomic.py", "        remove_path(partial)\n\n", "        pass\n\n"),
        ("store/partial_results.py", "    if not path.exists():\n",
         "    if path.exists() and not _checksum_file(path).exists():\n        return True\n"
         "    if not path.exists():\n"))),
    "keys do not follow the content of data": Fault("hand", (
        ("store/hashing.py", "    if value in RESERVED_VALUES or value.startswith(HUB_DATASETS):", "    if True:"),)),
    "locks are ignored": Fault("hand", (
        ("store/lock.py", "if not (owner := other_owner(folder, shard)):", "if True:"),
        ("store/lock.py", "                lock.acquire()  # at once", "                # at once"),
        ("store/lock.py", "            return\n        yield other_owner(folder, shard)\n",
         "            return\n        yield str()\n"))),
    "other code puts its stamp on finished work": Fault("hand", (
        ("store/session.py", "if self.cached and all(files.get(name) == entry for name, entry in "
                             "self.cached[\"files\"].items()):", "if False:"),
        ("store/session.py", "begun = self.cached or read_run_inputs(self.folder) or {\"code\": code, \"later_code\": "
                             "[]}", "begun = {\"code\": code, \"later_code\": []}"))),
    "an edited manifest is believed": Fault("hand", (
        ("store/records.py", "if hashlib.sha256(body).hexdigest() != end[1].decode():", "if False:"),)),
    "clean takes the inputs of what is wanted": Fault("hand", (
        ("store/gc.py", "left += [outputs_root() / source[\"folder\"] for source in sources[folder][\"inputs\"]]",
         "pass"),
        ("store/gc.py", "for folder in (node.folder, *input_folders(node)))",
         "for folder in [node.folder] if node.stage == '05_sample')"))),
    "changes of the same size are not looked at": Fault("hand", (
        ("store/integrity.py", "\n            or changed > (written if name in RECORDS else finished)]",
         "]"),)),
    "the manifest is written before the records": Fault("hand", (
        ("store/session.py", "        write_record(self.folder / CHECKSUMS, {\"subfolders\": checksums})\n",
         "        write_record(self.folder / MANIFEST, manifest, durable=True)\n"
         "        write_record(self.folder / CHECKSUMS, {\"subfolders\": checksums})\n"),)),
    "shards finish at the same time": Fault("hand", (
        ("store/session.py", "        if not shard_of(self.params):\n", "        if True:\n"),)),
    "damage is not made again": Fault("runs", (
        ("store/verify.py", "    report = changed_since_finish(nodes)\n", "    return []\n"),)),
    "stale results are not made again": Fault("runs", (
        ("workflow/notebook.py", "if not manifest or changed_inputs(manifest) or is_forced(node, options):",
         "if not manifest or is_forced(node, options):"),)),
    "the folder of sockets stays": Fault("kills", (
        ("workflow/forked_kernel.py", "    shutil.rmtree(folder, ignore_errors=True)\n", ""),)),
    "kernels outlive their runner": Fault("kills", (
        ("workflow/forked_kernel.py", "            die_with_parent(server)\n", ""),)),
    "a killed fork server fails the run": Fault("kills", (
        ("workflow/forkserver.py", "except (OSError, ValueError):  # it has", "except OSError:  # it has"),)),
    "a run goes on after Ctrl-C": Fault("kills", (
        ("workflow/scheduler.py", "        asked = True\n        raise KeyboardInterrupt\n", "        pass\n"),)),
}


def plant(name: str, folder: Path) -> Path:
    """Copy the package, with a fault, into a folder; return the folder."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in FAULTS[name].edits:
        path = folder / PACKAGE.name / file
        path.write_text(changed(path.read_text(), old, new))
    return folder


def changed(text: str, old: str, new: str) -> str:
    """Return the text of a module with a fault in it, after checking that the fault has its place there."""
    assert text.count(old) == 1, f"this is not there once: {old}"
    return text.replace(old, new)


def find(name: str, seconds: float) -> str:
    """Disturb a grid with a fault planted until something is found, or for some seconds; return what, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join([str(plant(name, Path(folder))), str(Path(__file__).parent)])
        command = [sys.executable, disturbed.__file__, FAULTS[name].kind, "--seconds", str(seconds), "--until-found"]
        result = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL)
        *sentences, counts = [line for line in result.stdout.splitlines() if line] or [""]
        return f"{counts} {' '.join(sentences)}" if result.returncode == 1 and sentences else ""


if __name__ == "__main__":
    for fault in sys.argv[1:] or FAULTS:
        begun, result = time.monotonic(), find(fault, 600)
        print(json.dumps({"fault": fault, "seconds": round(time.monotonic() - begun), "found": result[:600]}),
              flush=True)
