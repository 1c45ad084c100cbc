"""The ``dgs`` command."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status (0 success, 1 a notebook failed, 2 a wrong input)."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except ValueError as error:
        print(f"dgs: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Finished stages are kept; the same command continues from here.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dgs", description="Difficulty-guided sampling: run experiments.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run what an experiment file asks for and is not finished yet")
    run.add_argument("file", help="experiment file, such as params/quickstart.yaml")
    run.add_argument("--set", action="append", default=[], metavar="STAGE.NAME=VALUE", dest="changes",
                     help="change a parameter; a list of values makes a grid axis")
    run.add_argument("--only", metavar="STAGE", help="run this stage only")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument("--force", action="append", default=[], metavar="STAGE", help="run this stage again")
    run.add_argument("--dry-run", action="store_true", help="show what would run")
    run.set_defaults(command=_run)
    status = commands.add_parser("status", help="show what is finished, missing or stale")
    status.add_argument("file", nargs="?", default="params/quickstart.yaml", help="experiment file")
    status.set_defaults(command=_status)
    return parser


def _run(options: argparse.Namespace) -> int:
    from dgs_utils.batch.display import Display
    from dgs_utils.batch.experiment import read_experiment
    from dgs_utils.batch.plan import plan
    from dgs_utils.batch.run import run_plan, summary
    from dgs_utils.batch.status import node_table

    nodes = plan(read_experiment(options.file, options.changes))
    force = {_stage(name) for name in options.force}
    if options.until:
        nodes = [node for node in nodes if node.stage <= _stage(options.until)]
    if options.only:
        nodes = [node for node in nodes if node.stage == _stage(options.only)]
    if options.dry_run:
        print(node_table(nodes))
        return 0
    reports = run_plan(nodes, Display(), force)
    print("\n" + summary(reports))
    return int(any(report.outcome in ("failed", "blocked") for report in reports))


def _status(options: argparse.Namespace) -> int:
    from dgs_utils.batch.experiment import read_experiment
    from dgs_utils.batch.plan import plan
    from dgs_utils.batch.status import node_table

    print(node_table(plan(read_experiment(options.file)), each=True))
    return 0


def _stage(name: str) -> str:
    from dgs_utils.batch.experiment import SECTIONS
    from dgs_utils.params import STAGES, nearest

    if name in STAGES:
        return name
    if name not in SECTIONS:
        raise ValueError(f"{name} is no stage{nearest(name, [*STAGES, *SECTIONS])}")
    return SECTIONS[name]


if __name__ == "__main__":
    sys.exit(main())
