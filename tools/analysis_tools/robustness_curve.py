"""Clean and robust figures over the strength of the attack: python tools/analysis_tools/robustness_curve.py CONFIG CHECKPOINT
[CONFIG CHECKPOINT ...] [options]

Runs `tools/test.py --robust` for every checkpoint and strength, prints a table and draws a curve. Checkpoints with the same label are
seeds of one experiment: their mean and standard deviation are shown. The step grows with epsilon as in the paper's protocol for the
host (0.15 epsilon for detectors, 0.125 epsilon for segmentors, ten steps).

    --epsilons 0 1 2 4 8         radii of the attack, in 1/255
    --labels stock stock afan    one for each checkpoint; default: the names of the configs
    --num-images 50              the first images of the test set only
    --json FILE                  all figures; a sweep that is started again reuses those of the same weights, config and attack
    --plot FILE                  the curve
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # command_line.py

from command_line import UsageError, run  # noqa: E402
from curve_report import figures, plot, table  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: E402

from afan_mm.robustness.attack_settings import ATTACKS, PROTOCOLS  # noqa: E402

TEST = Path(__file__).resolve().parent.parent / 'test.py'


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('pairs', nargs='+', metavar='CONFIG CHECKPOINT')
    parser.add_argument('--epsilons', nargs='+', type=radius, default=[0, 1, 2, 4, 8], help='in 1/255; default: 0 1 2 4 8')
    parser.add_argument('--labels', nargs='+', help='one for each checkpoint; default: the names of the configs')
    parser.add_argument('--attack', choices=ATTACKS, default='pgd', help='default: %(default)s')
    parser.add_argument('--metric', help='default: the first that ends in mIoU or mAP')
    parser.add_argument('--num-images', type=int, metavar='N', help='the first N images; default: all')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/robustness_curve'), help='default: %(default)s')
    parser.add_argument('--json', type=Path, metavar='FILE', help='default: curve.json in the work folder')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw the curve')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of every config')
    return parser.parse_args(argv)


def radius(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError(f'must be a number in [0, 255], in 1/255, but got {text!r}')
    return value


def read_runs(args):
    """What to evaluate: (label, config, checkpoint) of each pair."""
    if len(args.pairs) % 2:
        raise UsageError(f'every CONFIG needs a CHECKPOINT, but got {len(args.pairs)} paths')
    pairs = list(zip(args.pairs[::2], args.pairs[1::2]))
    for path in args.pairs:
        if not os.path.isfile(path):
            raise UsageError(f'CONFIG and CHECKPOINT must be files, but got {path}')
    labels = args.labels or [Path(config).stem for config, _ in pairs]
    if len(labels) != len(pairs):
        raise UsageError(f'--labels must be one for each of the {len(pairs)} checkpoints, but got {len(labels)}')
    return [(label, *pair) for label, pair in zip(labels, pairs)]


def key_of(config, checkpoint, epsilon, args):
    """What the figures of one evaluation depend on, but for the data itself."""
    weights = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
    text = hashlib.sha256(Path(config).read_bytes()).hexdigest()
    about = [config, text, weights, epsilon, args.attack, args.num_images, sorted(args.cfg_options)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def evaluate(config, checkpoint, epsilon, args, work_dir):
    """The figures of one checkpoint at one strength, by tools/test.py."""
    work_dir.mkdir(parents=True, exist_ok=True)
    options = [f'test_cfg.epsilon={epsilon}/255', f'test_cfg.step_size={epsilon * step_ratio(config)}/255', *args.cfg_options]
    if epsilon == 0:
        options.append('test_cfg.num_steps=1')  # none of them moves a pixel
    if args.num_images is not None:
        options.append(f'test_dataloader.dataset.indices={args.num_images}')
    command = [sys.executable, str(TEST), config, checkpoint, '--robust', args.attack, '--work-dir', str(work_dir), '--cfg-options', *options]
    with open(work_dir / 'log.txt', 'w') as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        lines = (work_dir / 'log.txt').read_text().strip().splitlines() or ['no output']
        raise UsageError(f'{config} with {checkpoint} could not be evaluated: {lines[-1]} ({work_dir / "log.txt"})')
    return json.loads((work_dir / 'robust.json').read_text())


def step_ratio(config):
    """Step by epsilon in the paper's protocol for the host of a config."""
    from mmengine.config import Config
    scope = Config.fromfile(config).get('default_scope')
    if scope not in PROTOCOLS:
        raise UsageError(f'default_scope of {config} must be one of {sorted(PROTOCOLS)}, but it is {scope!r}')
    return PROTOCOLS[scope]['step_size'] / PROTOCOLS[scope]['epsilon']


def write(path, content):
    """The whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    part.write_text(json.dumps(content, indent=1))
    os.replace(part, path)


def read(path):
    """The figures of an earlier sweep, by their key."""
    if not path.exists():
        return {}
    try:
        return {entry['key']: entry for entry in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f'--json must be a file of this tool, or none, but got {path}') from error


def main():
    args = parse_args()
    runs = read_runs(args)
    path = args.json or args.work_dir / 'curve.json'
    known, entries = read(path), []
    columns = (TextColumn('evaluations'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn('passed,'),
               TimeRemainingColumn(), TextColumn('left'))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for label, config, checkpoint in progress.track(runs * len(args.epsilons)):
            epsilon = args.epsilons[len(entries) // len(runs)]
            key = key_of(config, checkpoint, epsilon, args)
            entry = known.get(key) or evaluate(config, checkpoint, epsilon, args, args.work_dir / key)
            entries.append(dict(entry, key=key, label=label, config=config, epsilon=epsilon))
            write(path, list({**known, **{each['key']: each for each in entries}}.values()))
    try:
        metric, curves = figures(entries, args.metric)
    except KeyError as error:
        raise UsageError(f'--metric must be one of {error.args[0]}, but got {args.metric!r}') from error
    print(table(metric, curves, args.attack, entries[0]['num_images']))
    if args.plot is not None:
        plot(metric, curves, args.attack, args.plot)


if __name__ == '__main__':
    run(main)
