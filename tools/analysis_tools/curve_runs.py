"""The evaluations of a robustness curve: what each depends on, and how it is run."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from command_line import UsageError, describe, find_host, read_checkpoint, read_config
from data_check import check_data
from mmengine.config import DictAction
from mmengine.registry import DATASETS, init_default_scope

from afan_mm.robustness.attack_settings import PROTOCOLS

TEST = Path(__file__).resolve().parent.parent / 'test.py'
SWEPT = ('attack', 'epsilon', 'step_size')  # of test_cfg


def prepare(args):
    """The checkpoints of a sweep, checked before anything runs.

    Returns:
        list[dict]: For each pair its ``label``, ``config``, ``checkpoint`` and ``host``, and
        ``about``: a digest of all that its figures depend on but for the attack, that is of the
        resolved config, the weights and the test data.
    """
    if len(args.pairs) % 2:
        raise UsageError(f'every CONFIG needs a CHECKPOINT, but got {len(args.pairs)} paths')
    pairs = list(zip(args.pairs[::2], args.pairs[1::2]))
    labels = args.labels or [Path(config).stem for config, _ in pairs]
    if len(labels) != len(pairs):
        raise UsageError(
            f'--labels must be one for each of the {len(pairs)} checkpoints, but got {len(labels)}'
        )
    options = parse_options(args.cfg_options)
    runs, data = [], {}
    for label, (config, checkpoint) in zip(labels, pairs):
        cfg = read_config(argparse.Namespace(config=config, cfg_options=options))
        host = find_host(cfg, 'the attack')
        if runs and host != runs[0]['host']:
            raise UsageError(
                f'all configs must be of one host, but {runs[0]["config"]} is of '
                f'{runs[0]["host"]}, and {config} of '
                f'{host}'
            )
        read_checkpoint(checkpoint)
        parts = {
            key: cfg.get(key) for key in ('model', 'test_dataloader', 'test_evaluator', 'test_cfg')
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        test_set = json.dumps(cfg.get('test_dataloader'), sort_keys=True, default=str)
        if test_set not in data:  # reading a large test set takes a while
            data[test_set] = digest_data(cfg, args.num_images)
        weights = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
        about = digest([host, text, data[test_set], weights])
        if any((run['label'], run['about']) == (label, about) for run in runs):
            raise UsageError(
                f'checkpoints with one label must differ, but {checkpoint} is there twice as '
                f'{label!r}'
            )
        runs.append(dict(label=label, config=config, checkpoint=checkpoint, host=host, about=about))
    return runs


def parse_options(given):
    """``--cfg-options`` as a dict; as they came they go to tools/test.py."""
    if not given:
        return None
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = parser.parse_args(['--cfg-options', *given]).cfg_options
    swept = [f'test_cfg.{key}' for key in SWEPT if f'test_cfg.{key}' in options]
    if swept:
        raise UsageError(f'--cfg-options must leave {", ".join(swept)} to --attack and --epsilons')
    return options


def digest_data(cfg, num_images):
    """A digest of the test set: its annotations, and the size and time of every file that it
    names.
    """
    check_data(cfg, ['test_dataloader'])
    init_default_scope(cfg.default_scope)
    settings = cfg.test_dataloader.dataset
    try:
        dataset = DATASETS.build(settings)
        size = len(dataset)
        images = [dataset.get_data_info(index) for index in range(min(size, num_images or size))]
    except Exception as error:  # a data set may fail in any way
        raise UsageError(f'cannot read the test set: {describe(error)}') from error
    if num_images is not None:
        check_subset(cfg, num_images, size)
    files = sorted(
        {
            value
            for image in images
            for value in image.values()
            if isinstance(value, str) and os.path.isfile(value)
        }
    )
    stats = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in files]
    return digest([images, stats])


def check_subset(cfg, num_images, size):
    """Complain where the first images cannot stand for themselves."""
    if not 1 <= num_images <= size:
        raise UsageError(
            f'--num-images must be from 1 to {size}, the images of the test set, but got '
            f'{num_images}'
        )
    if any(key in cfg.test_dataloader.dataset for key in ('dataset', 'datasets')):
        raise UsageError(
            f'--num-images does not go with {cfg.test_dataloader.dataset.type}, which holds other '
            'data sets'
        )
    metrics = (
        cfg.test_evaluator
        if isinstance(cfg.test_evaluator, (list, tuple))
        else [cfg.test_evaluator]
    )
    for metric in metrics:
        if metric.get('ann_file'):
            raise UsageError(
                f'--num-images does not go with {metric.type}, which counts every image of its '
                'ann_file'
            )


def digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def key_of(run, epsilon, args):
    """Names one evaluation."""
    return digest([run['about'], epsilon, args.attack, args.num_images])[:16]


def step_ratio(host):
    """Step by epsilon in the paper's protocol for a host."""
    return PROTOCOLS[host]['step_size'] / PROTOCOLS[host]['epsilon']


def evaluate(run, epsilon, args, work_dir):
    """The figures of one checkpoint at one strength, by tools/test.py."""
    config, checkpoint, step = run['config'], run['checkpoint'], epsilon * step_ratio(run['host'])
    options = [
        *args.cfg_options,
        f'test_cfg.epsilon={epsilon}/255',
        f'test_cfg.step_size={step}/255',
    ]
    if epsilon == 0:
        options.append('test_cfg.num_steps=1')  # none of them moves a pixel
    if args.num_images is not None:
        options.append(f'test_dataloader.dataset.indices={args.num_images}')
    command = [
        sys.executable,
        str(TEST),
        config,
        checkpoint,
        '--robust',
        args.attack,
        '--work-dir',
        str(work_dir),
    ]
    command += ['--cfg-options', *options]
    work_dir.mkdir(parents=True, exist_ok=True)
    with open(work_dir / 'log.txt', 'w') as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        lines = (work_dir / 'log.txt').read_text().strip().splitlines() or ['no output']
        raise UsageError(
            f'{config} with {checkpoint} could not be evaluated: {lines[-1]} '
            f'({work_dir / "log.txt"})'
        )
    return json.loads((work_dir / 'robust.json').read_text())
