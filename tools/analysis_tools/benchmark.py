"""What A-FAN costs: python tools/analysis_tools/benchmark.py CONFIG [CONFIG ...] [options]

Builds the model of each A-FAN config, without pretrained weights, and its stock twin, and compares
the time and the peak memory of one training step on a random batch between them, cheaper ways to
run A-FAN, and other schedules for the same work. Times are ratios to the stock step of the same
round, beside the floor: 1 + sum over the sites of the passes through a tail x that tail's share of
the stock step.

    --variants afan,one_pass             only these, beside stock
    --grow num_strengths=1,2,3,5         afan alone, as a setting grows; also num_steps, shape
                                         (square) and batch_size
    --json FILE, --plot FILE, --markdown other forms of the same figures
"""

import argparse
import os
import platform
import shlex
import sys
import warnings
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

# Read by torch when it is imported: its profiler would write into the progress bar.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')
os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')

import mmcv
import mmengine
import torch
from mmengine.device import get_device

from afan_mm.analysis.cost.case import MEMORY_FROM, Case, Plan
from afan_mm.analysis.cost.report import FORMATS, plot, report
from afan_mm.cli.command_line import ConfigOptions, positive_integer, run
from afan_mm.utils.errors import UsageError, describe
from afan_mm.utils.files import check_output, write, write_json

GROWTH = ('num_strengths', 'num_steps', 'shape', 'batch_size')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='A-FAN config file')
    parser.add_argument(
        '--variants', type=lambda text: text.split(','), metavar='A,B', help='default: all'
    )
    parser.add_argument(
        '--grow',
        type=growth,
        action='append',
        metavar='KEY=V,V',
        help=f'one of {", ".join(GROWTH)} and its values; may be given several times',
    )
    parser.add_argument(
        '--rounds',
        type=positive_integer,
        default=5,
        help='every variant runs once in each; default: %(default)s',
    )
    parser.add_argument(
        '--warmup',
        type=positive_integer,
        default=1,
        help='unmeasured runs of each variant; default: %(default)s',
    )
    parser.add_argument(
        '--shape',
        type=positive_integer,
        nargs=2,
        metavar=('H', 'W'),
        help="pixels; default: the config's own on a GPU and for mmpretrain; on a CPU 160 160 "
        '(mmseg) or 256 256 (mmdet)',
    )
    parser.add_argument(
        '--batch-size', type=positive_integer, help="default: the config's own on a GPU, 2 on a CPU"
    )
    add_device(parser)
    parser.add_argument(
        '--seed', type=int, default=0, help='of the order in each round; default: %(default)s'
    )
    add_outputs(parser)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='override settings of the configs',
    )
    return parser.parse_args(argv)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Options for where it is measured."""
    parser.add_argument('--device', help='default: the GPU if there is one')
    parser.add_argument(
        '--threads',
        type=positive_integer,
        metavar='N',
        help="of a CPU; times of one thread are the process's own, whatever else the machine does; "
        "default: torch's own number",
    )
    parser.add_argument(
        '--amp',
        choices=['none', 'bf16', 'fp16'],
        default='none',
        help='automatic mixed precision; default: %(default)s',
    )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Options for the forms in which the figures are given."""
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write all figures, and how they were taken'
    )
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw them')
    parser.add_argument('--markdown', action='store_true', help='print the tables in Markdown')


def growth(text: str) -> Tuple[str, List[int]]:
    """The type of --grow."""
    quantity, _, values = text.partition('=')
    if quantity not in GROWTH:
        raise argparse.ArgumentTypeError(
            f'must be KEY=V,V with KEY one of {", ".join(GROWTH)}, but got {text!r}'
        )
    return quantity, [positive_integer(value) for value in values.split(',')]


def choose_device(args: argparse.Namespace) -> torch.device:
    """The device to measure on, refused where it cannot be used."""
    try:
        device = torch.device(args.device or get_device())
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f'--device {args.device} cannot be used: {describe(error)}') from error
    if device.type not in MEMORY_FROM:
        raise UsageError(f'--device must be one of {", ".join(MEMORY_FROM)}, but got {device.type}')
    if args.amp != 'none' and device.type == 'cpu':
        raise UsageError('--amp needs a GPU, but got a CPU')
    return device


def choose_variants(
    case: Case, wanted: Optional[Sequence[str]], known: Dict[str, None]
) -> List[str]:
    """The variants to measure, stock first."""
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise UsageError(
            f'--variants must be some of {", ".join(known)}, but got {", ".join(unknown)}'
        )
    return [name for name in case.variants if wanted is None or name in wanted or name == 'stock']


def versions() -> Dict[str, str]:
    """Of Python and the libraries that the figures depend on."""
    found = dict(
        python=platform.python_version(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmcv=mmcv.__version__,
    )
    for library in ('mmdet', 'mmseg'):
        if library in sys.modules:
            found[library] = sys.modules[library].__version__
    return found


def main() -> None:
    args = parse_args()
    if args.json is not None:
        check_output('--json', args.json)
    if args.plot is not None:
        check_output('--plot', args.plot, [f'.{name}' for name in FORMATS])
    device = choose_device(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    warnings.simplefilter('ignore')  # the libraries' own, about how they build their models
    plan = Plan(args.rounds, args.warmup, args.amp, args.seed)
    cases = [
        Case(path, device, plan, args.cfg_options, args.shape, args.batch_size)
        for path in args.configs
    ]
    known = {name: None for case in cases for name in case.variants}
    chosen = [choose_variants(case, args.variants, known) for case in cases]
    results = []
    for case, names in zip(cases, chosen):
        results.append(case.grow(args.grow) if args.grow else case.measure(names))
        print(report(results[-1], args.markdown))
    if args.json:
        about = dict(
            command=shlex.join(['python', 'tools/analysis_tools/benchmark.py', *sys.argv[1:]]),
            versions=versions(),
            seed=args.seed,
            warmup=args.warmup,
        )
        write_json(args.json, dict(about, results=results))
    if args.plot:
        write(args.plot, plot(results, args.plot.suffix[1:]))


if __name__ == '__main__':
    run(main)
