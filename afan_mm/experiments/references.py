"""Fair references to an A-FAN config: functions from configs to a config.

Each rules out one other explanation of a gain: that the same passes do it without perturbation
(``control``) or with noise (``gaussian``), the larger gradient (``scaled``), the time (``longer``).
"""

import copy
from typing import Any, Callable, Dict, Iterator, List, Optional

from mmengine.config import Config, ConfigDict

from ..joint import adversarial_weight
from ..models import AFANNeckWrapper
from ..models.component import AFANComponent, find_model
from ..settings import AFANSettings
from ..utils.configs import dicts, type_name


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
        of_rate = 'Momentum' not in str(scheduler.get('type'))
        if of_rate and scheduler.get('param_name', 'lr') == 'lr':
            for key in ('eta_min', 'eta_max', 'min_value'):
                if key in scheduler:
                    scheduler[key] *= factor
    return cfg


def longer(cfg: Config, factor: float) -> Config:
    """A config with ``factor`` times the iterations or epochs, its schedules stretched along. What
    it switches at a fixed iteration elsewhere, such as in a hook, stays where it is.
    """
    if not factor > 0:
        raise ValueError(f'factor must be a number > 0, but got {factor!r}')
    cfg = copy.deepcopy(cfg)
    key = 'max_epochs' if is_by_epoch(cfg) else 'max_iters'
    cfg.train_cfg[key] = max(1, round(cfg.train_cfg[key] * factor))
    for scheduler in _schedulers(cfg):
        for key in ('begin', 'end', 'T_max', 'total_steps', 'step_size'):
            if isinstance(scheduler.get(key), int):  # 'end' may be infinite
                scheduler[key] = round(scheduler[key] * factor)
        for key in ('milestones', 'periods'):
            if key in scheduler:
                scheduler[key] = [round(each * factor) for each in scheduler[key]]
        if 'Exponential' in type_name(scheduler):  # by so much in each step
            scheduler['gamma'] **= 1 / factor
    return cfg


# 'longer' also needs a factor, which may have to be measured first; see arms.py
REFERENCES: Dict[str, Callable[[Config, Config], Config]] = dict(
    stock=stock, control=control, scaled=scaled, gaussian=gaussian
)
KINDS = (*REFERENCES, 'longer')


def with_perturbation(cfg: Config, perturbation: str) -> Config:
    """The config with the ``perturbation`` of every site, also of those that it says nothing of."""
    cfg = copy.deepcopy(cfg)
    parts = list(components(cfg.model))
    if not parts:
        raise ValueError(
            f'perturbation={perturbation!r} needs an arm with afan=dict(...) in its model, or a '
            'component of A-FAN, but there is none'
        )
    for part in parts:
        if part.get('afan') is None:
            part['afan'] = ConfigDict()
        for site in sites_of(part):
            site['perturbation'] = perturbation
            site.pop('noise_epsilon', None)  # of 'gradient+gaussian' alone
    return cfg


def sum_of_weights(cfg: Config) -> float:
    """``clean_weight`` and the weights of all adversarial losses (Eq. 6): how many times that of
    stock the objective is where features are not perturbed.
    """
    adversarial = adversarial_weight(
        [settings_of(part, site) for part in components(cfg.model) for site in sites_of(part)]
    )
    clean = cfg.optim_wrapper.get('clean_weight', 1.0)
    return 1.0 if clean == 'complement' else clean + adversarial


def components(node: Any) -> Iterator[dict]:
    """Every component of A-FAN in a model config, known by its type or its ``afan``."""
    for each in dicts(node):
        if each.get('afan') is not None or component_class(each) is not None:
            yield each


def component_class(part: dict) -> Optional[type]:
    """The class of a part of a model where it is a component of A-FAN, else None."""
    kind = part.get('type')
    if isinstance(kind, str):
        try:
            kind = find_model(kind)
        except (KeyError, ImportError):  # of a part that is left as it is
            return None
    return kind if isinstance(kind, type) and issubclass(kind, AFANComponent) else None


def sites_of(component: dict) -> List[dict]:
    """The ``afan`` of each site; without any the component has one, the paper's."""
    afan = component.get('afan')
    return list(afan) if isinstance(afan, (list, tuple)) else [{} if afan is None else afan]


def settings_of(component: dict, site: dict) -> AFANSettings:
    """The settings of a site, without what else its component takes in ``afan``."""
    options = (component_class(component) or AFANNeckWrapper).options  # the latter has them all
    return AFANSettings.from_config({k: v for k, v in site.items() if k not in options})


def is_by_epoch(cfg: Config) -> bool:
    """Whether a config's training is counted in epochs, as mmengine's runner decides."""
    train_cfg = cfg.train_cfg
    if 'type' in train_cfg:
        return 'max_epochs' in train_cfg
    return train_cfg.get('by_epoch', True)


def _schedulers(cfg: Config) -> List[dict]:
    found = cfg.get('param_scheduler') or []
    return found if isinstance(found, (list, tuple)) else [found]
