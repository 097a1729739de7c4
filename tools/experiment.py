"""Arms × seeds with statistics: python tools/experiment.py EXPERIMENT.py [options]

Trains and measures every arm of an experiment with every seed, each run in a process of its own,
and prints the table. Runs that are stored are not run again: stop it whenever you like, start it
again, and it goes on. The keys of an experiment file are described in
afan_mm/experiments/config.py. Relative paths in a config, such as its data, count from the current
folder.

    --seeds 0-4                  or 0,2,5; default: those of the experiment
    --arms stock 'afan*'         default: all
    --jobs 2                     runs at a time; the cores are shared out
    --half selection             measure on the images that settings may be chosen by
    --report                     run nothing, only the report of what is stored
    --executor slurm --partition gpu --gpus 1 --minutes 240
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import List, Optional

from afan_mm.cli.command_line import positive_integer, run
from afan_mm.experiments import (
    EXECUTORS,
    Plan,
    Scheduler,
    Store,
    collect,
    read_experiment,
    run_experiment,
    select_arms,
    write_report,
)
from afan_mm.experiments.data import HALVES


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('experiment', help='experiment file')
    parser.add_argument('--seeds', type=seeds, help='such as 0-4 or 0,2,5')
    parser.add_argument('--arms', nargs='+', metavar='NAME', help='names or patterns')
    parser.add_argument(
        '--jobs', type=positive_integer, default=1, metavar='N', help='runs at a time'
    )
    parser.add_argument(
        '--half', choices=HALVES, default='report', help='of the validation set; %(default)s'
    )
    parser.add_argument('--report', action='store_true', help='run nothing')
    parser.add_argument('--executor', choices=EXECUTORS, default='local', help='%(default)s')
    parser.add_argument('--partition', help='of Slurm')
    parser.add_argument('--gpus', type=positive_integer, help='of Slurm, for each run')
    parser.add_argument(
        '--minutes',
        type=positive_integer,
        help='the limit of each run, which goes on from its last checkpoint when the command is '
        'started again; default: a week',
    )
    parser.add_argument(
        '--threads', type=positive_integer, help='of each run; default: cores / jobs'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='the store; default: work_dirs/experiments/<name of the experiment>',
    )
    args = parser.parse_args(argv)
    if args.executor != 'slurm' and (args.partition or args.gpus):
        parser.error(f'--partition and --gpus want --executor slurm, but got {args.executor}')
    if args.executor == 'debug' and args.minutes:
        parser.error('--minutes wants a process for each run, but got --executor debug')
    return args


def seeds(text: str) -> List[int]:
    """'0-2,7' as [0, 1, 2, 7]."""
    try:
        found: List[int] = []
        for part in text.split(','):
            first, dash, last = part.partition('-')
            found += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = []
    if not found:
        raise argparse.ArgumentTypeError(f'must be numbers and ranges such as 0-4, but got {text}')
    return sorted(set(found))


def executor_options(args: argparse.Namespace) -> dict:
    """What the executor is told beside the number of jobs."""
    given = dict(slurm_partition=args.partition, gpus_per_node=args.gpus, timeout_min=args.minutes)
    return {key: value for key, value in given.items() if value is not None}


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def stop(number: int, frame: Optional[FrameType]) -> None:
    """End on a signal as on an exit."""
    raise SystemExit(128 + number)  # through the scheduler, which ends its runs


def main() -> None:
    args = parse_args()
    experiment = read_experiment(args.experiment)
    arms = select_arms(experiment, args.arms)
    chosen = args.seeds or experiment.seeds
    folder = args.work_dir or Path('work_dirs/experiments') / experiment.name
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    plan = Plan(experiment, Store(folder), args.half, threads)
    failed: List[str] = []
    if not args.report:
        options = executor_options(args)
        scheduler = Scheduler(folder / 'jobs', args.jobs, args.executor, say, **options)
        failed = run_experiment(plan, arms, chosen, scheduler, say)
    print(write_report(collect(plan, arms, chosen), folder))
    if failed:
        say(f'failed: {", ".join(failed)}')
        sys.exit(1)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, stop)
    run(main, go_on='the same command goes on')
