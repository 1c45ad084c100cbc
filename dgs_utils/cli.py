"""The ``dgs`` command."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status: 0 success, 1 a notebook failed, 2 a wrong input, 130 stopped."""
    make_streams_safe()
    try:
        try:
            options = _parser().parse_args(arguments)
            if getattr(options, "outputs", ""):
                os.environ["DGS_OUTPUTS"] = str(Path(options.outputs).expanduser().absolute())
            return options.command(options)
        finally:
            sys.stdout.flush()  # here, where a closed pipe is told from a fault
    except ValueError as error:
        print(f"dgs: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `dgs status | head -1`: nobody reads on, which is no fault
        silence()
        return 141
    except OSError as error:
        silence()
        place = f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror} while writing"
        print(f"dgs: {place}; make room or give access, or choose another folder by --outputs", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Finished stages are kept; the same command continues from here.", file=sys.stderr)
        return 130


def make_streams_safe() -> None:
    """Let output replace what the terminal's encoding lacks, and go nowhere where it is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (until the process ends)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def silence() -> None:
    """Let what is still to be printed go nowhere, so that Python does not fail on it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


class _Parser(argparse.ArgumentParser):
    """Tells a wrong call in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"dgs: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dgs", description="Difficulty-guided sampling: run grids of notebooks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    places = _Parser(add_help=False)
    places.add_argument("--outputs", default="", metavar="DIR", help="folder for all results (outputs)")
    experiment = _Parser(add_help=False, parents=[places])
    experiment.add_argument("--set", action="append", default=[], metavar="STAGE.NAME=VALUE", dest="changes",
                            help="change a parameter; a list of values makes a grid axis; may be repeated")
    how = _Parser(add_help=False)
    how.add_argument("--force", action="append", default=[], metavar="STAGE",
                     help="make this stage's results anew; 'stale': those that other code made; may be repeated")
    how.add_argument("--limit", type=float, default=0, metavar="MINUTES", help="stop a notebook that sits in one cell "
                     "for longer (no limit)")
    how.add_argument("--per-gpu", type=int, default=1, metavar="N", help="notebooks that may share a GPU (1)")

    run = commands.add_parser("run", parents=[experiment, how], help="run what an experiment file asks for")
    run.add_argument("file", help="experiment file, such as params/quickstart.yaml")
    run.add_argument("--only", metavar="STAGE", help="run this stage only, on inputs that are finished")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument("--jobs", type=int, metavar="N", help="run N notebooks at a time (needs Snakemake)")
    run.add_argument("--profile", default="", metavar="NAME", help="run by Snakemake with this profile: local, slurm, "
                     "or a folder with a config.yaml")
    run.add_argument("--dry-run", action="store_true", help="show what would run, and run nothing")
    run.add_argument("--benchmark", metavar="FILE", default="", help="gpu.json of tests/benchmarks/gpu.py, by which "
                     "--dry-run tells how long the long stages will take")
    run.add_argument("--graph", default="", metavar="FILE", help="draw the plan (.svg, .png, .pdf) and run nothing")
    run.set_defaults(command=_run)

    node = commands.add_parser("node", parents=[experiment, how], help="run one node, as cluster jobs do")
    node.add_argument("file", help="experiment file")
    node.add_argument("key", help="the node's key: the twelve characters at the end of its folder's name")
    node.add_argument("--attempt", type=int, default=1, metavar="N", help="from 2 on, a notebook that failed by itself "
                      "is left alone; one that was killed goes on")
    node.set_defaults(command=_node)

    status = commands.add_parser("status", parents=[experiment], help="show what is done, running, failed or missing")
    status.add_argument("file", nargs="?", default="params/quickstart.yaml", help="experiment file")
    status.set_defaults(command=_status)

    publish = commands.add_parser("publish", parents=[places], help="write a distilled set or a scored pool as a "
                                  "dataset to pass on")
    publish.add_argument("folder", help="a finished folder of stage 05 or 08; or of 02 or 03, for a pool")
    publish.add_argument("destination", help="a new folder, or hf://datasets/OWNER/NAME")
    publish.add_argument("--licence", required=True, metavar="NAME", help="under which the images may be passed on, "
                         "such as cc-by-nc-4.0")
    publish.add_argument("--yes", action="store_true", help="upload to hf://; without it, nothing is uploaded")
    publish.set_defaults(command=_publish)

    verify = commands.add_parser("verify", parents=[experiment], help="compare every byte of finished results with "
                                 "their manifests")
    verify.add_argument("file", nargs="?", default="params/quickstart.yaml", help="experiment file, or a folder of "
                        "results, such as outputs/evidence")
    verify.add_argument("--repair", action="store_true", help="let what is damaged be made again by the next run")
    verify.set_defaults(command=_verify)

    clean = commands.add_parser("clean", parents=[places], help="list results that no file in params refers to")
    clean.add_argument("--yes", action="store_true", help="remove them without a question")
    clean.add_argument("--all", action="store_true", help="those, too, that were made by hand or by --set")
    clean.set_defaults(command=_clean)
    return parser


def _run(options: argparse.Namespace) -> int:
    from dgs_utils.batch.display import Display
    from dgs_utils.batch.experiment import MOST
    from dgs_utils.batch.look import damage_lines, make_whole
    from dgs_utils.batch.report import summary
    from dgs_utils.batch.run import run_plan
    from dgs_utils.batch.state import one_moment
    from dgs_utils.batch.status import overview

    how = _how(options)
    if options.jobs is not None and not 1 <= options.jobs <= MOST:
        raise ValueError(f"--jobs is {options.jobs}; give how many notebooks run at a time, 1 or more, up to {MOST:,}")
    nodes = _chosen(options)
    if options.graph:
        from dgs_utils.batch.graph import draw

        draw(nodes, Path(options.graph))
    if options.dry_run or options.graph:
        with one_moment():
            lines = [*overview(nodes), *damage_lines(nodes)]
        print("\n".join(lines))
        if options.benchmark:
            from dgs_utils.batch.estimate import estimates

            print("\n".join(estimates(nodes, Path(options.benchmark))))
        for sentence in options.absent:
            print(f"Missing yet: {sentence}")
        return 0
    for line in make_whole(nodes):
        print(line)
    if options.jobs or options.profile:
        from dgs_utils.batch.engine import run_with_snakemake

        profile = options.profile or "local"
        reports = run_with_snakemake(options.file, options.changes, nodes, Display(), how, profile, options.jobs or 0)
    else:
        reports = run_plan(nodes, Display(), how)
    print("\n" + summary(reports))
    return int(any(report.outcome not in ("done", "skipped") for report in reports))


def _node(options: argparse.Namespace) -> int:
    from dgs_utils.batch.display import Display
    from dgs_utils.batch.node import failure_line, shown, wait_for_node
    from dgs_utils.batch.run import terminate_as_interrupt
    from dgs_utils.batch.state import failure, state
    from dgs_utils.runtime.orphans import follow_guard

    follow_guard()
    how = _how(options)
    found = [node for node in _nodes(options) if node.key == options.key]
    if not found:
        raise ValueError(f"{shown(Path(options.file))} plans no node {options.key}; see the ends of folder "
                         f"names in dgs status")
    [node] = found
    if options.attempt > 1 and state(node) == "failed":
        print(failure_line(node, failure(node)))
        return 1
    with terminate_as_interrupt():
        report = wait_for_node(node, Display(), how)
    if report.outcome == "failed":
        print(failure_line(node, report.error))
    return int(report.outcome == "failed")


def _status(options: argparse.Namespace) -> int:
    from dgs_utils.batch.state import one_moment
    from dgs_utils.batch.status import overview

    nodes = _nodes(options)
    with one_moment():
        lines = overview(nodes, disk=True)
    print("\n".join(lines))
    return 0


def _publish(options: argparse.Namespace) -> int:
    from dgs_utils.batch.publish import publish

    print(publish(Path(options.folder), options.destination, options.licence, options.yes))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from dgs_utils.batch.node import shown
    from dgs_utils.batch.verify import repair, report, verify_folders, verify_nodes

    folder = Path(options.file)
    if folder.is_dir():
        if options.repair:
            raise ValueError(f"--repair needs an experiment file, which can make again what is damaged; {options.file} "
                             f"is a folder")
        found, nodes = verify_folders(folder, _bar), []
    else:
        nodes = _nodes(options)
        found = verify_nodes(nodes, _bar)
    print("\n".join(report(found, nodes)))
    if options.repair and found.damaged:
        print("\n".join(repair(nodes, found)))
    elif found.damaged and nodes:
        file = shown(Path(options.file))
        print(f"To make it again: dgs verify {file} --repair, then dgs run {file}")
    return int(bool(found.damaged))


def _bar(items, label: str, total: int):
    """Pass items through a progress bar, where somebody watches."""
    from tqdm import tqdm

    return tqdm(items, desc=label, total=total, disable=not sys.stderr.isatty())


def _clean(options: argparse.Namespace) -> int:
    from dgs_utils.batch.clean import unreferenced
    from dgs_utils.batch.node import shown
    from dgs_utils.batch.status import folder_size, size

    left = [(one, folder_size(one.folder)) for one in unreferenced()]
    for one, count in left:
        why = f"  {one.apart}" if one.apart else ""
        print(f"{size(count):>9}  {shown(one.folder)}{why}{', kept unless --all' if why and not options.all else ''}")
    going = [(one, count) for one, count in left if options.all or not one.apart]
    total = sum(count for _, count in going)
    apart = sum(count for _, count in left) - total
    also = f", and {size(apart)} made by hand or by --set" if apart else ""
    asks = going and not options.yes and sys.stdin.isatty() and sys.stdout.isatty()
    if asks and input(f"Remove {len(going)} folders, {size(total)}? [y/N] ").strip().lower() in ("y", "yes"):
        options.yes = True
    if not options.yes:
        hint = f"; to remove them: dgs clean --yes{' --all' if options.all else ''}" if total else ""
        print(f"{size(total)} that no file in params refers to{also}{hint}")
        return 0
    print(f"{size(_removed(going))} removed{also}")
    return 0


def _removed(going: list) -> int:
    """Remove folders, tell which are kept, and return the bytes that have gone."""
    from dgs_utils.batch.clean import remove
    from dgs_utils.batch.node import shown

    gone = 0
    for one, count in going:
        why = remove(one.folder)
        gone += 0 if why else count
        if why:
            print(f"{shown(one.folder)}  kept: {why}")
    return gone


def _nodes(options: argparse.Namespace) -> list:
    """Return the plan of the experiment file."""
    from dgs_utils.batch.experiment import read_experiment, typed
    from dgs_utils.batch.paths import given_file
    from dgs_utils.batch.plan import plan

    options.file, options.changes = given_file(options.file), list(map(typed, options.changes))
    options.absent = []
    only_seen = getattr(options, "dry_run", False) or bool(getattr(options, "graph", ""))
    return plan(read_experiment(options.file, options.changes), options.absent.append if only_seen else None)


def _chosen(options: argparse.Namespace) -> list:
    """Return the part of the plan that --only and --until leave."""
    from dgs_utils.batch.experiment import ORDER, stage_named
    from dgs_utils.batch.node import shown

    nodes = _nodes(options)
    if options.until:
        last = ORDER.index(stage_named(options.until))
        nodes = [node for node in nodes if ORDER.index(node.stage) <= last]
    if options.only:
        nodes = [node for node in nodes if node.stage == stage_named(options.only)]
    if not nodes:
        raise ValueError(f"{shown(Path(options.file))} plans no {options.only or options.until}; leave --only and "
                         f"--until out")
    return nodes


def _how(options: argparse.Namespace):
    from dgs_utils.batch.experiment import stage_named
    from dgs_utils.batch.node import STALE, Options, shown

    force = frozenset(name if name == STALE else stage_named(name) for name in options.force)
    return Options(force, options.limit, options.per_gpu, (shown(Path(options.file)), *options.changes))


if __name__ == "__main__":
    sys.exit(main())
