"""The evaluations of a robustness curve: what each depends on, and how it is run."""

import argparse
import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ..cli.command_line import ConfigOptions
from ..cli.data_check import check_data
from ..robustness.settings import PROTOCOLS
from ..utils.configs import library_of, read_config
from ..utils.errors import UsageError, describe
from ..utils.files import write_json
from ..utils.models import digest_of, read_checkpoint, weights_of
from .robustness_curve import Entry, figures

# of a config, what the figures depend on; mmpretrain has the preprocessor beside the model
PARTS = ('model', 'data_preprocessor', 'test_dataloader', 'test_evaluator', 'test_cfg')
SWEPT = ('attack', 'epsilon', 'step_size')  # of test_cfg


@dataclass(frozen=True)
class Sweep:
    """How checkpoints are attacked.

    Args:
        command: The start of the command line of one evaluation, such as ``[sys.executable,
            'tools/test.py']``: each runs in a process of its own.
        attack: One of :data:`~afan_mm.robustness.settings.ATTACKS`. Defaults to 'pgd'.
        num_images: How many images of the test set, evenly spaced. Defaults to None, all.
        cfg_options: Changes of every config, KEY=VALUE each. Defaults to none.
    """

    command: Sequence[str]
    attack: str = 'pgd'
    num_images: Optional[int] = None
    cfg_options: Sequence[str] = ()


def prepare(
    pairs: Sequence[Tuple[str, str]], sweep: Sweep, labels: Optional[Sequence[str]] = None
) -> List[Dict[str, Any]]:
    """The checkpoints of a sweep, checked before anything runs.

    Args:
        pairs: A config and a checkpoint each.
        sweep: How they are attacked.
        labels: One for each; those with the same label are seeds of one experiment. Defaults to the
            names of the configs.

    Returns:
        list[dict]: For each pair its ``label``, ``config``, ``checkpoint`` and ``library``; the
        ``indices`` of the images, None for all; and ``about``: a digest of all that its figures
        depend on but for the attack, that is of the resolved config, the weights and the test data.

    Raises:
        UsageError: If anything of it cannot be used.
    """
    labels = labels or [Path(config).stem for config, _ in pairs]
    if len(labels) != len(pairs):
        raise UsageError(
            f'--labels must be one for each of the {len(pairs)} checkpoints, but got {len(labels)}'
        )
    options = parse_options(sweep.cfg_options)
    runs: List[Dict[str, Any]] = []
    data: Dict[str, Tuple[Optional[List[int]], str]] = {}
    for label, (config, checkpoint) in zip(labels, pairs):
        cfg = read_config(config, options)
        library = library_of(cfg, 'the attack')
        if runs and library != runs[0]['library']:
            raise UsageError(
                f'all configs must be of one library, but {runs[0]["config"]} is of '
                f'{runs[0]["library"]}, and {config} of {library}'
            )
        weights = digest_of(weights_of(read_checkpoint(checkpoint)))
        parts = {key: cfg.get(key) for key in PARTS}
        text = json.dumps(parts, sort_keys=True, default=str)
        test_set = json.dumps(cfg.get('test_dataloader'), sort_keys=True, default=str)
        if test_set not in data:  # reading a large test set takes a while
            data[test_set] = choose_data(cfg, sweep.num_images)
        indices, read = data[test_set]
        about = digest([library, text, read, weights])
        if any((run['label'], run['about']) == (label, about) for run in runs):
            raise UsageError(
                f'checkpoints with one label must differ, but {checkpoint} is there twice as '
                f'{label!r}'
            )
        runs.append(
            dict(
                label=label,
                config=config,
                checkpoint=checkpoint,
                library=library,
                indices=indices,
                about=about,
            )
        )
    return runs


def parse_options(given: Sequence[str]) -> Optional[Dict[str, Any]]:
    """``--cfg-options`` as a dict; as they came they go to tools/test.py."""
    if not given:
        return None
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    options = parser.parse_args(['--cfg-options', *given]).cfg_options
    swept = [f'test_cfg.{key}' for key in SWEPT if f'test_cfg.{key}' in options]
    if swept:
        raise UsageError(f'--cfg-options must leave {", ".join(swept)} to --attack and --epsilons')
    return options


def choose_data(cfg: Config, num_images: Optional[int]) -> Tuple[Optional[List[int]], str]:
    """Which images of the test set to take, None for all, and a digest of them: their annotations,
    and the size and time of every file that they name.
    """
    check_data(cfg, ['test_dataloader'])
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    settings = cfg.test_dataloader.dataset
    try:
        dataset = DATASETS.build(settings)
        size = len(dataset)
        # the first of a folder for each class are all of one class
        number = min(size, num_images or size)
        places = [index * size // number for index in range(number)]
        images = [dataset.get_data_info(place) for place in places]
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
    return None if num_images is None else places, digest([images, stats])


def check_subset(cfg: Config, num_images: int, size: int) -> None:
    """Complain where so many images cannot stand for themselves."""
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
    if cfg.test_dataloader.dataset.get('indices') is not None:
        raise UsageError(
            '--num-images does not go with indices in test_dataloader.dataset, which choose images'
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


def digest(content: Any) -> str:
    """Of what can be written as JSON; of anything else, of how it prints."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def key_of(run: Dict[str, Any], epsilon: float, sweep: Sweep) -> str:
    """Names one evaluation."""
    return digest([run['about'], epsilon, sweep.attack, sweep.num_images])[:16]


def step_ratio(library: str) -> float:
    """Step by epsilon in the paper's protocol for a library."""
    return PROTOCOLS[library]['step_size'] / PROTOCOLS[library]['epsilon']


def evaluate(run: Dict[str, Any], epsilon: float, sweep: Sweep, work_dir: Path) -> Entry:
    """The figures of one checkpoint at one strength, in a process of its own.

    Args:
        run: Of :func:`prepare`.
        epsilon: Radius of the attack, in 1/255.
        work_dir: Its folder, with what it printed in log.txt.

    Raises:
        UsageError: If the evaluation fails, with the last line that it printed.
    """
    config, checkpoint = run['config'], run['checkpoint']
    step = epsilon * step_ratio(run['library'])
    options = [
        *sweep.cfg_options,
        f'test_cfg.epsilon={epsilon}/255',
        f'test_cfg.step_size={step}/255',
    ]
    if epsilon == 0:
        options.append('test_cfg.num_steps=1')  # none of them moves a pixel
    if run['indices'] is not None:
        options.append(f'test_dataloader.dataset.indices={run["indices"]}'.replace(' ', ''))
    command = [
        *sweep.command,
        config,
        checkpoint,
        '--robust',
        sweep.attack,
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


def run_sweep(
    runs: Sequence[Dict[str, Any]],
    epsilons: Sequence[float],
    sweep: Sweep,
    file: Path,
    work_dir: Path,
    metric: Optional[str] = None,
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> List[Entry]:
    """The figures of every checkpoint at every strength.

    Args:
        runs: Of :func:`prepare`.
        epsilons: Radii of the attack, in 1/255.
        sweep: How to attack.
        file: Where every figure is kept as soon as it is there, and found again.
        work_dir: Folder for those of the evaluations.
        metric: A name that all must have. Defaults to None.
        track: What shows the progress over a sequence. Defaults to nothing.

    Raises:
        UsageError: If ``file`` is another one, an evaluation fails, or there is no such metric.
    """
    known, entries = read_entries(file), []
    for epsilon, run in track([(epsilon, run) for epsilon in epsilons for run in runs]):
        key = key_of(run, epsilon, sweep)
        entry = known.get(key) or evaluate(run, epsilon, sweep, work_dir / key)
        about = dict(key=key, config=run['config'], epsilon=epsilon, label=run['label'])
        known[key] = {**entry, **about}
        entries.append(known[key])
        write_json(file, list(known.values()))
        figures(entries, metric)  # an unknown metric need not wait for the last evaluation
    return entries


def read_entries(file: Path) -> Dict[str, Entry]:
    """The figures of an earlier sweep, by their key; none where there is no file."""
    if not file.exists():
        return {}
    try:
        return {entry['key']: entry for entry in json.loads(file.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f'--json must be a file of this tool, or none, but got {file}') from error
