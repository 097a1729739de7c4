"""Does A-FAN train what mmdet and mmseg install? python tools/analysis_tools/sweep_zoo.py
[--out-dir DIR] [options]

Takes one config of every family (folder of configs) of mmdet and mmseg, and in a process of its own
for each: a stock training step on a small random batch, without pretrained weights; the config
converted as tools/convert_config.py does it, nothing written by hand; and an A-FAN training step. A
family counts where the stock step gives a finite loss and finite gradients, and passes where
A-FAN's step does so too and changes the gradients that reach the parameters.

A sweep that was interrupted goes on where it stopped: each family leaves a JSON file in DIR.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # command_line.py

from command_line import UsageError, run  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: E402
from rich.table import Table  # noqa: E402

HOSTS = ('mmdet', 'mmseg')
TRIAL = Path(__file__).resolve().with_name('zoo_trial.py')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--hosts', nargs='+', choices=HOSTS, default=HOSTS, help='default: both')
    parser.add_argument(
        '--families',
        nargs='+',
        metavar='NAME',
        help='only these, e.g. mmdet/retinanet; default: all',
    )
    parser.add_argument(
        '--out-dir', type=Path, default=Path('work_dirs/zoo'), help='default: %(default)s'
    )
    parser.add_argument(
        '--redo',
        choices=['failed', 'all'],
        help='families to try again; default: those not tried yet',
    )
    parser.add_argument(
        '--jobs', type=int, default=1, help='families at a time; default: %(default)s'
    )
    parser.add_argument(
        '--time-limit',
        type=int,
        default=600,
        metavar='SECONDS',
        help='for one family; default: %(default)s',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the whole table')
    return parser.parse_args(argv)


def families(host):
    """The folders of configs that a host installs, by name."""
    found = importlib.util.find_spec(host)
    if found is None:
        raise UsageError(f'{host} is not installed')
    root = Path(found.origin).parent / '.mim' / 'configs'
    return {
        f'{host}/{folder.name}': folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name != '_base_'
    }


def try_family(name, folder, out, time_limit):
    """Run the trial of one family in a process of its own, and complete its record."""
    command = [sys.executable, '-W', 'ignore', str(TRIAL), str(folder), str(out.resolve())]
    out.unlink(missing_ok=True)
    error = None
    with open(out.with_suffix('.log'), 'w') as log:
        try:
            code = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=time_limit,
                # some configs name others by 'configs/...'
                cwd=folder.parent.parent,
            ).returncode
            if code:
                error = (
                    f'the process ended with {code} (a negative number is the signal that ended it)'
                )
        except subprocess.TimeoutExpired:
            error = f'not done in {time_limit} s'
    record = json.loads(out.read_text()) if out.exists() else dict(stage='start')
    out.write_text(
        json.dumps(
            dict(record, family=name, **({} if error is None else dict(error=error))), indent=1
        )
    )


def wanted(path, redo):
    """Whether a family is to be tried, given what it left before."""
    if redo == 'all' or not path.exists():
        return True
    return redo == 'failed' and 'error' in json.loads(path.read_text())


def report(records, console):
    """The table, the failures grouped by cause, and the count."""
    table = Table(
        'family', 'stock loss', 'components', 'change of the gradients', 'seconds', 'result'
    )
    causes = defaultdict(list)
    for record in sorted(records, key=lambda r: r['family']):
        result = (
            'passed'
            if passed(record)
            else f'{record["stage"]}: {record["error"].splitlines()[0][:90]}'
        )
        if not passed(record):
            causes[record['stage'], record['error'].splitlines()[0][:140]].append(record['family'])
        table.add_row(
            record['family'],
            number(record.get('stock_loss')),
            ', '.join(record.get('components', ())),
            number(record.get('change')),
            number(record.get('seconds')),
            result,
        )
    console.print(table)
    for (stage, cause), names in sorted(causes.items()):
        console.print(f'{stage}: {cause}\n    {", ".join(names)}', markup=False, highlight=False)
    for host in (*HOSTS, 'mm'):
        mine = [r for r in records if r['family'].startswith(host)]
        counted = [r for r in mine if 'stock_loss' in r]
        good = sum(map(passed, counted))
        share = f' = {good / len(counted):.1%}' if counted else ''
        console.print(
            f'{"both" if host == "mm" else host}: {len(mine)} families, {len(counted)} train '
            f'stock, {good} of these with A-FAN{share}'
        )


def passed(record):
    return 'error' not in record


def number(value):
    return '' if value is None else f'{value:.3g}'


def main():
    args = parse_args()
    todo = {name: folder for host in args.hosts for name, folder in families(host).items()}
    if args.families:
        unknown = sorted(set(args.families) - set(todo))
        if unknown:
            raise UsageError(
                f'--families must be folders of installed configs, such as {next(iter(todo))}, '
                f'but got {unknown}'
            )
        todo = {name: todo[name] for name in args.families}
    args.out_dir.mkdir(parents=True, exist_ok=True)
    paths = {name: args.out_dir / f'{name.replace("/", "_")}.json' for name in todo}
    console = Console(width=None if sys.stdout.isatty() else 200)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with ThreadPoolExecutor(args.jobs) as pool, Progress(
        *columns, console=Console(stderr=True)
    ) as progress:
        task = progress.add_task('families', total=len(todo))
        running = {
            pool.submit(try_family, name, folder, paths[name], args.time_limit): name
            for name, folder in todo.items()
            if wanted(paths[name], args.redo)
        }
        progress.advance(task, len(todo) - len(running))
        for done in as_completed(running):
            done.result()
            progress.update(task, advance=1, description=running[done])
    records = [json.loads(path.read_text()) for path in paths.values()]
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(records, indent=1))
    report(records, console)


if __name__ == '__main__':
    run(main)
