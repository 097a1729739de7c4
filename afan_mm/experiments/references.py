"""Fair references to an A-FAN config: functions from configs to a config.

Each rules out one other explanation of a gain: that the same passes do it without perturbation
(``control``) or with noise (``gaussian``), the larger gradient (``scaled``), the time (``longer``).
"""

import copy
from typing import Any, Callable, Dict, Iterator, List

from mmengine.config import Config

from ..joint import adversarial_weight
from ..settings import AFANSettings


def stock(stock_cfg: Config, arm_cfg: Config) -> Config:
    """The stock config itself."""
    return copy.deepcopy(stock_cfg)


def control(stock_cfg: Config, arm_cfg: Config) -> Config:
    """The arm's adversarial passes on unperturbed features."""
    return with_perturbation(arm_cfg, 'none')


def gaussian(stock_cfg: Config, arm_cfg: Config) -> Config:
    """The arm's passes on features with Gaussian noise of standard deviation epsilon (Table 11)."""
    return with_perturbation(arm_cfg, 'gaussian')


def scaled(stock_cfg: Config, arm_cfg: Config) -> Config:
    """Stock with its learning rate, floors of the schedule included, times the arm's sum of loss
    weights.
    """
    factor = sum_of_weights(arm_cfg)
    cfg = copy.deepcopy(stock_cfg)
    optimizer = cfg.optim_wrapper.get('optimizer', {})
    if 'lr' not in optimizer:
        raise ValueError(
            'scaled needs a stock config with optim_wrapper.optimizer.lr, but got '
            f'optim_wrapper={cfg.optim_wrapper}'
        )
    optimizer.lr *= factor
    for scheduler in _schedulers(cfg):
        for key in ('eta_min', 'eta_max'):
            if key in scheduler and 'Momentum' not in str(scheduler.get('type')):
                scheduler[key] *= factor
    return cfg


def longer(stock_cfg: Config, factor: float) -> Config:
    """Stock with ``factor`` times the iterations or epochs, its schedules stretched along. What a
    config switches at a fixed iteration elsewhere, such as in a hook, stays where it is.
    """
    if not factor > 0:
        raise ValueError(f'factor must be a number > 0, but got {factor!r}')
    cfg = copy.deepcopy(stock_cfg)
    key = 'max_epochs' if is_by_epoch(cfg) else 'max_iters'
    cfg.train_cfg[key] = max(1, round(cfg.train_cfg[key] * factor))
    for scheduler in _schedulers(cfg):
        for key in ('begin', 'end', 'T_max', 'total_steps', 'step_size'):
            if isinstance(scheduler.get(key), int):  # 'end' may be infinite
                scheduler[key] = round(scheduler[key] * factor)
        if 'milestones' in scheduler:
            scheduler.milestones = [round(each * factor) for each in scheduler.milestones]
    return cfg


# 'longer' also needs a factor, which may have to be measured first; see arms.py
REFERENCES: Dict[str, Callable[[Config, Config], Config]] = dict(
    stock=stock, control=control, scaled=scaled, gaussian=gaussian
)
KINDS = (*REFERENCES, 'longer')


def with_perturbation(cfg: Config, perturbation: str) -> Config:
    """The config with the ``perturbation`` of every site."""
    cfg = copy.deepcopy(cfg)
    sites = list(afan_dicts(cfg.model))
    if not sites:
        raise ValueError(
            f'perturbation={perturbation!r} needs an arm with afan=dict(...) in its model, but '
            'there is none'
        )
    for site in sites:
        site['perturbation'] = perturbation
        site.pop('noise_epsilon', None)  # of 'gradient+gaussian' alone
    return cfg


def sum_of_weights(cfg: Config) -> float:
    """``clean_weight`` and the weights of all adversarial losses (Eq. 6): how many times that of
    stock the objective is where features are not perturbed.
    """
    adversarial = adversarial_weight(
        [AFANSettings.from_config(site) for site in afan_dicts(cfg.model)]
    )
    clean = cfg.optim_wrapper.get('clean_weight', 1.0)
    return 1.0 if clean == 'complement' else clean + adversarial


def afan_dicts(node: Any) -> Iterator[dict]:
    """Every ``afan`` of a model config: each a dict, or a list of dicts."""
    children: List[Any] = []
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'afan' and value is not None:
                yield from value if isinstance(value, (list, tuple)) else [value]
            else:
                children.append(value)
    elif isinstance(node, (list, tuple)):
        children.extend(node)
    for child in children:
        yield from afan_dicts(child)


def is_by_epoch(cfg: Config) -> bool:
    """Whether a config's training is counted in epochs, as mmengine's runner decides."""
    train_cfg = cfg.train_cfg
    if 'type' in train_cfg:
        return 'max_epochs' in train_cfg
    return train_cfg.get('by_epoch', True)


def _schedulers(cfg: Config) -> List[dict]:
    found = cfg.get('param_scheduler') or []
    return found if isinstance(found, (list, tuple)) else [found]
