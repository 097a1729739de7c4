"""One family of the sweep, in a process of its own: python -m afan_mm.analysis.zoo_trial FAMILY
FOLDER OUT.json [--preset PRESET] [--sites SITES | --robust]

Two training steps from the same weights, on the same batch and with the same random streams: stock,
which must be finite; and converted, with A-FAN, which must be finite and move the gradients. The
config is the one with the shortest name, which is the plainest, or the next one where its stock
step does not run. Where the first step has no direction, as a last layer that starts at zero hides
the loss from every site, both are repeated from the weights that the stock step leaves. With
--robust, a step of each attack on the pixels takes the place of A-FAN's step.
"""

import argparse
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import Tensor, nn

from ..conversion import converted
from ..conversion.presets import PRESETS
from ..random_batches import zoo_batch
from ..stock_model import build, resize, seed, without_weights
from ..utils.configs import dicts, type_name
from ..utils.files import write_json
from .zoo_attack import NoGradientError, attack_steps, fit_norms, one_image

Gradients = Dict[str, Tensor]
Shape = Tuple[int, int]
SHAPES = ((64, 64), (128, 128), (224, 224), (320, 320))
NUM_STRENGTHS = 1
MAX_ITERS = 1000
EPSILON = 0.05
CONFIGS = 3  # tried in a family
INERT = 1e-5  # relative change of the gradients below which nothing was added to them


class StepError(Exception):
    """A step that did not end well, in words."""


def load(path: Path) -> Config:
    """The config as a CPU without weights can run it."""
    cfg = Config.fromfile(path)
    if 'type' not in cfg.get('model', {}) or 'optim_wrapper' not in cfg:
        raise StepError('the config has no model or no optimizer')
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if 'data_preprocessor' in cfg:  # as a runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    without_weights(cfg.model)
    # what reached the parameters, not what clipping left of it
    cfg.optim_wrapper.pop('clip_grad', None)
    if 'Amp' in type_name(cfg.optim_wrapper):  # refuses to be built without a GPU
        cfg.optim_wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            cfg.optim_wrapper.pop(key, None)
    return cfg


def step(model: nn.Module, cfg: Config, shape: Shape) -> Tuple[float, Gradients, OptimWrapper]:
    """One ``train_step``: the sum of the losses, the gradients of the update by parameter name, and
    the optim wrapper.
    """
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    gradients: Gradients = {}

    def keep(*_: Any) -> None:
        gradients.update(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        )

    wrapper.optimizer.register_step_pre_hook(keep)
    # What a runner would say at the start of the first iteration.
    wrapper.initialize_count_status(model, 0, MAX_ITERS)
    for key, value in dict(iter=0, epoch=0, max_iters=MAX_ITERS, max_epochs=1).items():
        MessageHub.get_current_instance().update_info(key, value)
    if hasattr(wrapper, 'health'):
        wrapper.health.due = True
    batch = zoo_batch(cfg, shape)
    seed()
    losses = model.train_step(batch, wrapper)
    if not gradients:
        raise StepError('no gradient reached a parameter')
    loss = float(losses['loss'].detach()) if 'loss' in losses else float('nan')
    if not np.isfinite(loss):
        raise StepError(f'the loss is {loss}')
    broken = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    if broken:
        raise StepError(
            f'the gradients of {len(broken)} parameters are not finite, {broken[0]} among them'
        )
    return loss, gradients, wrapper


def stock_step(cfg: Config, record: 'Record') -> Tuple[Gradients, Gradients, Shape]:
    """The stock step, at the smallest of several image sizes that the family can take, its own
    last: weights, gradients, size.
    """
    error, own = None, cfg.model.get('data_preprocessor', {}).get('size')
    for shape in (*SHAPES, *([tuple(own)] if own else ())):
        resize(cfg.model, shape)
        model = build(cfg.model)
        model.init_weights()
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            loss, gradients, _ = step(model, cfg, shape)
        except Exception as each:  # whatever a family does not like about random images
            error = error or each
            continue
        record.update(shape=shape, stock_loss=loss)
        return weights, gradients, shape
    raise error


def choose(folder: Path, record: 'Record') -> Tuple[Config, Tuple[Gradients, Gradients, Shape]]:
    """The config of a family, and its stock step."""
    error, tried = StepError('the folder has no config'), 0
    for path in sorted(folder.glob('*.py'), key=lambda path: (len(path.name), path.name)):
        record.enter('config', config=f'{folder.name}/{path.name}')
        try:
            cfg = load(path)
            tried += 1
            record.enter('stock')
            return cfg, stock_step(cfg, record)
        except Exception as each:
            error = error if tried > 1 else each
        if tried == CONFIGS:
            break
    raise error


def distance(gradients: Gradients, expected: Gradients) -> float:
    """The norm of the difference of two sets of gradients, relative to the second."""
    zero = torch.zeros(())
    names = {*gradients, *expected}
    apart = sum(
        float((gradients.get(n, zero) - expected.get(n, zero)).double().pow(2).sum()) for n in names
    )
    length = sum(float(g.double().pow(2).sum()) for g in expected.values())
    return (apart / max(length, 1e-300)) ** 0.5


def afan_step(
    new: Config,
    weights: Gradients,
    expected: Gradients,
    shape: Shape,
    record: 'Record',
) -> float:
    """The step of a converted config: by how much the gradients differ from those expected."""
    model = build(new.model)
    model.load_state_dict(weights)
    _, gradients, wrapper = step(model, new, shape)
    moved = distance(gradients, expected)
    record.update(
        sites=sorted({key.rpartition('/')[0] for key in wrapper.health.report()}), change=moved
    )
    if not record['sites']:
        raise StepError('no site was passed')
    return moved


def second_step(cfg: Config, weights: Gradients, shape: Shape) -> Tuple[Gradients, Gradients]:
    """The weights that the stock step leaves, and the gradients of a stock step from there."""
    for _ in range(2):
        model = build(cfg.model)
        model.load_state_dict(weights)
        start = weights
        _, gradients, _ = step(model, cfg, shape)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return start, gradients


def trial(folder: Path, record: 'Record', preset: str, sites: Optional[str]) -> None:
    """Fill the record of a family."""
    cfg, (weights, gradients, shape) = choose(folder, record)
    record.enter('convert', preset=preset)
    # the paper's at a strength that acts on random weights
    changes = dict(epsilon=EPSILON, num_strengths=NUM_STRENGTHS) if preset != 'recommended' else {}
    new = converted(cfg, sites, preset, **changes)
    components = [type_name(node) for node in dicts(new.model)]
    record.enter(
        'afan', components=sorted(name for name in components if name.startswith('AFAN')), steps=1
    )
    moved = afan_step(new, weights, gradients, shape, record)
    if moved < INERT:
        record.enter('afan', steps=2)
        moved = afan_step(new, *second_step(cfg, weights, shape), shape, record)
    if moved < INERT:
        raise StepError(f'the gradients are the stock ones (relative distance {moved:.1e})')
    record.enter('done')


def robust_trial(folder: Path, record: 'Record') -> None:
    """Fill the record of a family: stock step, and a step of each attack on one image.

    Where an attack finds no gradient, all are repeated with norms that fit the batch.
    """
    cfg, (weights, _, shape) = choose(folder, record)
    record.enter('attack')
    model = build(cfg.model)
    model.load_state_dict(weights)
    batch = one_image(zoo_batch(cfg, shape, batch_size=1))
    moved, errors = attack_steps(model.eval(), batch)
    if any(isinstance(error, NoGradientError) for error in errors.values()):
        record.enter('attack', fitted=True)
        fit_norms(model, zoo_batch(cfg, shape))
        moved, errors = attack_steps(model, batch)
    record.update(attacks=moved)
    for error in errors.values():
        raise StepError(f'{", ".join(errors)}: {type(error).__name__}: {error}') from error
    record.enter('done')


class Record(dict):
    """What is known of a config, in a file at every stage: the process may be killed for its time
    or memory.
    """

    def __init__(self, path: Path, **entries: Any):
        super().__init__(entries)
        self._path = path

    def enter(self, stage: str, **entries: Any) -> None:
        """Note that a stage begins."""
        self.update(entries, stage=stage)
        self.save()

    def save(self) -> None:
        """Write what is known."""
        write_json(self._path, self)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('family')
    parser.add_argument('folder', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--preset', choices=PRESETS, default='recommended')
    parser.add_argument('--sites', help='default: those of the preset')
    parser.add_argument('--robust', action='store_true', help="attacks in place of A-FAN's step")
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    record = Record(args.out, family=args.family)
    began = time.time()
    try:
        if args.robust:
            robust_trial(args.folder, record)
        else:
            trial(args.folder, record, args.preset, args.sites)
    except Exception as error:
        record.update(
            error=f'{type(error).__name__}: {error}'.strip(), traceback=traceback.format_exc()
        )
    record['seconds'] = time.time() - began
    record.save()


if __name__ == '__main__':
    main()
