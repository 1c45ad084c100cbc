"""The ``dgs`` command."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from dgs_utils.runtime.terminal import discard_output, make_streams_safe, printable


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 success, 1 a notebook failed or a result is damaged, 2 a wrong input, 130 stopped.
    """
    make_streams_safe()
    try:
        try:
            options = _parser().parse_args(arguments)
            if getattr(options, "outputs", ""):
                os.environ["DGS_OUTPUTS"] = str(Path(os.path.expanduser(options.outputs)).absolute())
            return options.command(options)
        finally:
            sys.stdout.flush()  # here, so that a closed pipe is one of the errors below
    except ValueError as error:
        print(f"dgs: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has left, as in `dgs status | head -1`
        discard_output()
        return 141
    except OSError as error:
        discard_output()
        fault = f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror} while writing"
        print(f"dgs: {printable(fault)}; make room or give access, or choose another folder by --outputs",
              file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Finished stages are kept; the same command continues from here.", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        hint = "; a parameter follows --set" * ("=" in message.partition("unrecognized")[2])
        self.exit(2, f"dgs: {printable(message)}{hint}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dgs", description="Difficulty-guided sampling for dataset distillation: "
                     "runs the notebooks of an experiment file, once for each result that is missing.",
                     epilog="Example: dgs run params/quickstart.yaml. dgs COMMAND --help lists a command's options.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    outputs = _Parser(add_help=False)
    outputs.add_argument("--outputs", default="", metavar="DIR", help="folder of all results (default: outputs)")
    experiment = _Parser(add_help=False, parents=[outputs])
    experiment.add_argument("--set", action="append", default=[], metavar="STAGE.NAME=VALUE", dest="changes",
                            help="set a parameter, as sample.ipc=20; several values, as sample.ipc=5,10, add a grid "
                            "axis; repeatable")
    running = _Parser(add_help=False)
    running.add_argument("--force", action="append", default=[], metavar="STAGE",
                     help="rerun a stage even if it is finished; 'stale' reruns results of older code; repeatable")
    running.add_argument("--limit", type=float, default=0, metavar="MINUTES", help="stop a notebook when one "
                         "of its cells runs longer (default: no limit)")
    running.add_argument("--per-gpu", type=int, default=1, metavar="N", help="notebooks per GPU (default: 1)")

    run = commands.add_parser("run", parents=[experiment, running], help="run the missing notebooks of an experiment")
    run.add_argument("file", help="experiment file, as params/quickstart.yaml")
    run.add_argument("--only", metavar="STAGE", help="run only this stage; its inputs must be finished")
    run.add_argument("--until", metavar="STAGE", help="run the stages up to and including this one")
    run.add_argument("--jobs", type=int, metavar="N", help="run N notebooks at the same time (default: 1)")
    run.add_argument("--profile", default="", metavar="NAME", help="submit the notebooks to a cluster by Snakemake; "
                     "NAME is slurm or a folder with a config.yaml")
    run.add_argument("--rehearse", action="store_true", help="run the experiment at its real sizes with few images and "
                     "steps, into outputs/rehearsal/NAME, and tell seconds, memory, and what the whole would take")
    run.add_argument("--sbatch", metavar="DIR", help="write array jobs for SLURM into DIR, and run nothing")
    run.add_argument("--fail-fast", action="store_true", help="end the run at the first notebook that fails, as Ctrl-C "
                     "does (default: run all that do not depend on it)")
    run.add_argument("--dry-run", action="store_true", help="list what would run, with the times of before; run none")
    run.set_defaults(command=_run)

    node = commands.add_parser("node", parents=[experiment, running],
                               help="run one notebook of an experiment, as a cluster job does")
    node.add_argument("file", help="experiment file")
    node.add_argument("key", help="key of the result: the last twelve characters of its folder's name")
    node.add_argument("--attempt", type=int, default=1, metavar="N", help="number of this attempt; from the second "
                      "on, a killed notebook runs again and a failed one does not (default: 1)")
    node.set_defaults(command=_node)

    status = commands.add_parser("status", parents=[experiment],
                                 help="list the results of an experiment: finished, running, failed or missing")
    status.add_argument("file", nargs="?", default="params/quickstart.yaml",
                        help="experiment file (default: params/quickstart.yaml)")
    status.set_defaults(command=_status)

    publish = commands.add_parser("publish", parents=[outputs], help="write a distilled set or a scored pool as "
                                  "a dataset folder with a card")
    publish.add_argument("folder", help="finished folder of stage 05 or 08 (a distilled set), or of 02 or 03 (a pool)")
    publish.add_argument("destination", help="new folder to write")
    publish.add_argument("--licence", required=True, metavar="NAME", help="licence of the images, as "
                         "cc-by-nc-4.0")
    publish.set_defaults(command=_publish)

    check = commands.add_parser("check", help="tell what is in a pool: copies, what it covers, different images")
    check.add_argument("pool", help="folder of generated images, a folder for each class")
    check.add_argument("--originals", required=True, metavar="FOLDER", help="training images of the same classes")
    check.add_argument("--test", metavar="FOLDER", help="test images")
    check.add_argument("--scorer", metavar="NAME", help="classifier: a folder, or name:weights; without, copies only")
    check.add_argument("--ipc", type=int, default=10, help="images per class of the set (default: 10)")
    check.add_argument("--output", default="checkup", metavar="FOLDER", help="folder to write (default: checkup)")
    check.set_defaults(command=_check)

    verify = commands.add_parser("verify", parents=[experiment], help="compare the checksums of finished results "
                                 "with their manifests")
    verify.add_argument("file", nargs="?", default="params/quickstart.yaml", help="experiment file, or a folder of "
                        "results, as outputs/evidence (default: params/quickstart.yaml)")
    verify.add_argument("--repair", action="store_true",
                        help="mark damaged results, so that the next run makes them again")
    verify.set_defaults(command=_verify)

    notebooks = commands.add_parser("notebooks", help="compare the notebooks' parameters cells with the typed models")
    notebooks.add_argument("--sync", action="store_true", help="write the cells, and params/parameters.md, anew; "
                                                               "values that were set in a cell are lost")
    notebooks.set_defaults(command=_notebooks)

    clean = commands.add_parser("clean", parents=[outputs],
                                help="list the results that no experiment file plans, and remove them if asked")
    clean.add_argument("--yes", action="store_true", help="remove without asking")
    clean.add_argument("--all", action="store_true", help="include results made by hand, by --set, "
                       "or from data that is missing now")
    clean.set_defaults(command=_clean)
    return parser


def _run(options: argparse.Namespace) -> int:
    from dgs_utils.checkup.dry_run import pool_plan_lines
    from dgs_utils.store.verify import changed_since_finish, corrupt_lines, mark_corrupt_for_rebuild
    from dgs_utils.workflow.display import Display
    from dgs_utils.workflow.experiment import MAX_NODES
    from dgs_utils.workflow.known_experiments import remember_experiment
    from dgs_utils.workflow.overview import overview
    from dgs_utils.workflow.scheduler import run_plan
    from dgs_utils.workflow.summary import summary

    how = _run_options(options)
    if options.jobs is not None and not 1 <= options.jobs <= MAX_NODES:
        raise ValueError(f"--jobs is {options.jobs}; give how many notebooks run at a time, 1 or more, up to "
                         f"{MAX_NODES:,}")
    nodes = _selected_nodes(options)
    if options.dry_run:
        return _print(*overview(nodes), *pool_plan_lines(nodes), *corrupt_lines(changed_since_finish(nodes)),
                      *(f"Missing yet: {sentence}" for sentence in options.missing_weights))
    if options.rehearse:
        if options.profile or options.sbatch is not None:
            raise ValueError("--rehearse runs notebooks here and now; leave out --profile and --sbatch")
        from dgs_utils.workflow.rehearsal import rehearse

        reports, lines = rehearse(options.experiment, nodes, how, options.jobs or 1)
        return _print(*lines) or int(any(report.outcome not in ("done", "skipped") for report in reports))
    remember_experiment(Path(options.file))
    _print(*mark_corrupt_for_rebuild(nodes))
    if options.sbatch is not None:
        from dgs_utils.workflow.array_jobs import write_array_jobs

        folder = Path(os.path.expanduser(options.sbatch)).absolute()
        return _print(*write_array_jobs(folder, options.file, options.changes, nodes, how, options.profile,
                                        options.jobs or 0) or ["Nothing is left to do."])
    if options.profile:
        from dgs_utils.workflow.cluster import run_with_snakemake

        reports = run_with_snakemake(options.file, options.changes, nodes, Display(), how, options.profile,
                                     options.jobs or 0)
    else:
        reports = run_plan(nodes, Display(), how, options.jobs or 1)
    _print("", summary(reports))
    return int(any(report.outcome not in ("done", "skipped") for report in reports))


def _node(options: argparse.Namespace) -> int:
    from dgs_utils.runtime.process_lifetime import watch_owner
    from dgs_utils.store.paths import display_path
    from dgs_utils.store.status import failure, node_status
    from dgs_utils.workflow.display import Display
    from dgs_utils.workflow.notebook import format_failure
    from dgs_utils.workflow.scheduler import run_plan

    watch_owner()
    if options.attempt > 1:
        options.force = []  # it goes on from the checkpoint of the attempt before
    how = _run_options(options)
    node = next((node for node in _nodes(options) if node.key == options.key), None)
    if node is None:
        raise ValueError(f"{display_path(Path(options.file))} plans no node {options.key}; see the ends of folder "
                         f"names in dgs status")
    if options.attempt > 1 and node_status(node) == "failed":
        _print(format_failure(node, failure(node)))
        return 1
    [report] = run_plan([node], Display(), how)
    if report.outcome == "failed":
        _print(format_failure(node, report.error))
    return int(report.outcome == "failed")


def _status(options: argparse.Namespace) -> int:
    from dgs_utils.workflow.overview import overview

    return _print(*overview(_nodes(options), disk=True))


def _publish(options: argparse.Namespace) -> int:
    from dgs_utils.publish.dataset import publish

    return _print(publish(Path(options.folder), options.destination, options.licence))


def _check(options: argparse.Namespace) -> int:
    from dgs_utils.checkup.report import check_pool

    checked = check_pool(options.pool, options.originals, options.test, options.scorer, options.ipc, progress=_progress)
    checked.write(options.output)
    return _print(checked.table.to_string(index=False), *checked.sentences, f"Tables, figures: {options.output}")


def _verify(options: argparse.Namespace) -> int:
    from dgs_utils.store.paths import display_path
    from dgs_utils.store.verify import repair, report_lines, verify_folders, verify_nodes

    nodes: list = []
    if not Path(options.file).is_dir():
        nodes = _nodes(options)
        report = verify_nodes(nodes, _progress)
    elif options.repair:
        raise ValueError(f"--repair needs an experiment file, which can make again what is damaged; {options.file} is "
                         f"a folder")
    else:
        report = verify_folders(Path(options.file), _progress)
    _print(*report_lines(report, nodes))
    if options.repair and report.damaged:
        _print(*repair(nodes, report))
    elif report.damaged and nodes:
        file = display_path(Path(options.file))
        _print(f"To make it again: dgs verify {file} --repair, then dgs run {file}")
    return int(not report.whole)


def _progress(items, label: str = "", total: int | None = None):
    """Pass items through a progress bar, on a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=label, total=total, disable=not sys.stderr.isatty())


def _clean(options: argparse.Namespace) -> int:
    from dgs_utils.runtime.units import format_size
    from dgs_utils.store.gc import remove, unreferenced
    from dgs_utils.store.paths import display_path
    from dgs_utils.workflow.known_experiments import wanted_nodes
    from dgs_utils.workflow.overview import folder_size

    reasons = unreferenced(wanted_nodes())
    sizes = {folder: folder_size(folder) for folder in reasons}
    for folder, reason in reasons.items():
        why = f"  {reason}{'' if options.all else ', kept unless --all'}" if reason else ""
        _print(f"{format_size(sizes[folder]):>9}  {display_path(folder)}{why}")
    removable = [folder for folder, reason in reasons.items() if options.all or not reason]
    total = sum(map(sizes.__getitem__, removable))
    kept = sum(sizes.values()) - total
    also = f", and {format_size(kept)} that --all would include" if kept else ""
    yes = options.yes
    if removable and not yes and sys.stdin.isatty() and sys.stdout.isatty():
        answer = input(f"Remove {len(removable)} folders, {format_size(total)}? [y/N] ")
        yes = answer.strip().lower() in ("y", "yes")
    if not yes:
        hint = f"; to remove them: dgs clean --yes{' --all' if options.all else ''}" if total else ""
        return _print(f"{format_size(total)} that no experiment file refers to{also}{hint}")
    for folder in removable:
        if fault := remove(folder):
            total -= sizes[folder]
            _print(f"{display_path(folder)}  kept: {fault}")
    return _print(f"{format_size(total)} removed{also}")


def _notebooks(options: argparse.Namespace) -> int:
    from dgs_utils.store.atomic import atomic
    from dgs_utils.store.paths import display_path
    from dgs_utils.workflow.sync_notebooks import outdated_files

    outdated = outdated_files()
    for path, text in outdated.items() if options.sync else ():
        with atomic(path) as partial:
            partial.write_text(text, encoding="utf-8")
    what = "written anew" if options.sync else ("differs from the models; to write it anew, "
                                                "without values that were set in it: dgs notebooks --sync")
    _print(*[f"{display_path(path)} {what}" for path in outdated] or ["All are equal to the models."])
    return int(bool(outdated) and not options.sync)


def _print(*lines: str) -> int:
    """Print lines, with escape codes in names and errors of strangers shown as text; return the exit status 0."""
    for line in (line for text in lines for line in text.split("\n")):
        print(printable(line))
    return 0


def _nodes(options: argparse.Namespace) -> list:
    """Return the plan of the experiment file."""
    from dgs_utils.workflow.experiment import read_experiment
    from dgs_utils.workflow.planner import plan
    from dgs_utils.workflow.relative_paths import resolve_file

    options.file = str(resolve_file(options.file))
    options.missing_weights = []
    shows = getattr(options, "dry_run", False) or getattr(options, "rehearse", False)
    experiment = read_experiment(options.file, options.changes)
    options.experiment = experiment.name
    return plan(experiment, options.missing_weights.append if shows else None)


def _selected_nodes(options: argparse.Namespace) -> list:
    """Return the part of the plan that --only and --until leave."""
    from dgs_utils.store.paths import display_path
    from dgs_utils.workflow.experiment import ORDER, stage_named

    nodes = _nodes(options)
    if options.until:
        last = ORDER.index(stage_named(options.until))
        nodes = [node for node in nodes if ORDER.index(node.stage) <= last]
    if options.only:
        nodes = [node for node in nodes if node.stage == stage_named(options.only)]
    if not nodes:
        raise ValueError(f"{display_path(Path(options.file))} plans no {options.only or options.until}; leave "
                         f"--only and --until out")
    return nodes


def _run_options(options: argparse.Namespace) -> Any:
    from dgs_utils.store.paths import display_path
    from dgs_utils.workflow.experiment import stage_named
    from dgs_utils.workflow.notebook import STALE, Options

    force = frozenset(name if name == STALE else stage_named(name) for name in options.force)
    return Options(force, options.limit, options.per_gpu, (display_path(Path(options.file)), *options.changes),
                   getattr(options, "fail_fast", False))


if __name__ == "__main__":
    sys.exit(main())
