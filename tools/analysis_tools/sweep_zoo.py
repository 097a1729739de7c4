"""Does A-FAN train what mmdet, mmseg and mmpretrain install? python
tools/analysis_tools/sweep_zoo.py [--out-dir DIR] [options]

Takes one config of every family (folder of configs) of these libraries, and in a process of its
own for each: a stock training step on a small random batch, without pretrained weights; the config
converted as tools/convert_config.py does it, nothing written by hand; and an A-FAN training step. A
family counts where the stock step gives a finite loss and finite gradients, and passes where
A-FAN's step does so too and changes the gradients that reach the parameters; where they are the
stock ones, as a last layer that starts at zero hides the loss from every site, the next step
decides, and the table says so.

With --robust, one step of each attack of the robust evaluation takes the place of A-FAN's: PGD, and
for segmentors SegPGD and CosPGD, on one image. A family passes where each has a finite gradient,
moves pixels, and leaves the model as it was. Where one finds no gradient, as random weights let the
prediction be certain everywhere, all are repeated with batch norms that fit the batch, and the
table says so.

A sweep that was interrupted goes on where it stopped: each family leaves a JSON file in DIR.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Optional, Sequence

from rich.console import Console

from afan_mm.analysis.zoo import LIBRARIES, families, is_wanted, read_record, report, try_family
from afan_mm.cli.command_line import positive_integer, run
from afan_mm.conversion.presets import PRESETS
from afan_mm.utils.bar import progress_bar
from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import write_json


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--libraries',
        nargs='+',
        choices=LIBRARIES,
        default=LIBRARIES,
        help='default: those installed',
    )
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
        '--jobs', type=positive_integer, default=1, help='families at a time; default: %(default)s'
    )
    parser.add_argument(
        '--time-limit',
        type=positive_integer,
        default=600,
        metavar='SECONDS',
        help='for one family; default: %(default)s',
    )
    parser.add_argument(
        '--preset',
        choices=PRESETS,
        default='recommended',
        help='of the conversion; default: %(default)s',
    )
    parser.add_argument(
        '--sites', choices=['late'], help='of the conversion; default: those of the preset'
    )
    parser.add_argument(
        '--robust',
        action='store_true',
        help="a step of each attack on the pixels in place of A-FAN's, which needs no conversion",
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the whole table')
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    todo = {
        name: folder for library in args.libraries for name, folder in families(library).items()
    }
    if args.families:
        unknown = sorted(set(args.families) - set(todo))
        if unknown:
            raise UsageError(
                f'--families must be folders of installed configs, such as {next(iter(todo))}, '
                f'but got {unknown}'
            )
        todo = {name: todo[name] for name in args.families}
    args.out_dir.mkdir(parents=True, exist_ok=True)
    suffix = f'_{args.sites}' if args.sites else ''
    suffix += f'_{args.preset}' if args.preset != 'paper' else ''
    options = ['--preset', args.preset, *(['--sites', args.sites] if args.sites else [])]
    if args.robust:
        suffix, options = '_robust', ['--robust']
    paths = {name: args.out_dir / f'{name.replace("/", "_")}{suffix}.json' for name in todo}
    console = Console(width=None if sys.stdout.isatty() else 200)
    with ThreadPoolExecutor(args.jobs) as pool, progress_bar() as progress:
        task = progress.add_task('families', total=len(todo))
        running = {
            pool.submit(try_family, name, folder, paths[name], args.time_limit, options): name
            for name, folder in todo.items()
            if is_wanted(paths[name], args.redo)
        }
        progress.advance(task, len(todo) - len(running))
        for done in as_completed(running):
            done.result()
            progress.update(task, advance=1, description=running[done])
    records = [record for record in map(read_record, paths.values()) if record]
    if args.json is not None:
        write_json(args.json, records)
    report(records, console, 'under every attack' if args.robust else 'with A-FAN')


if __name__ == '__main__':
    run(main, go_on='the same command goes on')
