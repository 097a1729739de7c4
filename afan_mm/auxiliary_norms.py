"""Batch norms for the adversarial passes alone (``bn_stats='auxiliary'``), as in AdvProp (Xie et
al. 2020, "Adversarial Examples Improve Image Recognition", Sec. 3.3 and Algorithm 1).

Each batch norm in the tail of such a site gets a copy of itself as its child ``afan_auxiliary``,
which stands in for it while the site's attack and adversarial passes run: with running statistics
*and* affine parameters of its own. A clean pass, and so evaluation and inference, never meets the
copy; all sites of a model share it. As children of the norms the copies follow what the host does
with these: their mode, what it freezes, its device, options of its optimizer by name or kind.
"""

from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping, NoReturn, Set, Tuple

import torch
from torch import nn

from .declared import declared_by
from .isolation import replaced
from .settings import AFANSettings

NAME = 'afan_auxiliary'  # in the names of parameters and buffers
ADVICE = "write model=dict(type='AFANModel', base='<type of the stock model>', ...)"


def add_auxiliary_norms(model: nn.Module) -> None:
    """Give every batch norm that sites with ``bn_stats='auxiliary'`` need a copy of itself; nothing
    where there is no such site.

    To be called before the optimizer is built and the model wrapped; ``AFANModel`` does so itself.

    Args:
        model: The host.
    """
    for _, norm in _needed(model):
        if NAME not in norm._modules:
            norm.add_module(NAME, deepcopy(norm))


def check_auxiliary_norms(model: nn.Module) -> None:
    """Raise where :func:`add_auxiliary_norms` would have something to do."""
    missing = [path for path, norm in _needed(model) if NAME not in norm._modules]
    if missing:
        raise ValueError(
            f"bn_stats='auxiliary' needs auxiliary batch norms, but {len(missing)} norms of "
            f'{type(model).__name__} have none (such as {missing[0]}): {ADVICE}'
        )


def copy_to_auxiliary_norms(model: nn.Module) -> None:
    """Give all auxiliary norms the values of the main ones."""
    for _, norm in _with_auxiliary(model):
        norm._modules[NAME].load_state_dict(without_auxiliary(norm.state_dict()))


def auxiliary_norms(model: nn.Module) -> List[nn.Module]:
    """Those that the model has."""
    return [norm._modules[NAME] for norm in model.modules() if NAME in norm._modules]


@contextmanager
def without_auxiliary_norms(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the stock one, to whatever counts or writes its parameters."""
    removed = remove_auxiliary_norms(model)
    try:
        yield
    finally:
        for norm, auxiliary in removed:
            norm.add_module(NAME, auxiliary)


def remove_auxiliary_norms(model: nn.Module) -> List[Tuple[nn.Module, nn.Module]]:
    """Make the model the stock one, as it is deployed; the norms, each with its auxiliary one."""
    return [(norm, norm._modules.pop(NAME)) for _, norm in list(_with_auxiliary(model))]


@contextmanager
def auxiliary_norms_run(model: nn.Module, site: str) -> Iterator[None]:
    """Inside, the auxiliary norms run in place of the main ones.

    Args:
        model: The host.
        site: Name of the site whose passes run, for the error of a norm that has no auxiliary one.
    """
    with ExitStack() as stack:
        for path, norm in batch_norms(model):
            auxiliary = norm._modules.get(NAME)
            other = _refusing(path, site) if auxiliary is None else auxiliary.forward
            forward = partial(_one_of, norm.forward, other)
            stack.enter_context(replaced(norm, forward=forward))
        yield


_in_front: List[bool] = []  # one for each time that the main norms are asked for


@contextmanager
def main_norms_run() -> Iterator[None]:
    """Inside, the main norms run after all.

    Before its site a tail computes again what was overwritten since, such as a norm's result by an
    activation in place, and that is the clean pass.
    """
    _in_front.append(True)
    try:
        yield
    finally:
        _in_front.pop()


def _one_of(main: Callable, other: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
    return (main if _in_front else other)(*args, **kwargs)


def fill_in(state_dict: Dict[str, Any], model: nn.Module, prefix: str = '') -> None:
    """Complete the weights of a stock model with those of the auxiliary norms, which start as
    copies of the main ones.

    Args:
        state_dict: Extended in place; what is there stays.
        model: With auxiliary norms.
        prefix: Of the model's names in ``state_dict``. Defaults to ''.
    """
    for path, norm in _with_auxiliary(model):
        for key in norm._modules[NAME].state_dict():
            main = f'{prefix}{path}.{key}'
            if main in state_dict:
                state_dict.setdefault(f'{prefix}{path}.{NAME}.{key}', state_dict[main])


def without_auxiliary(state_dict: Mapping[str, Any]) -> Dict[str, Any]:
    """The weights of the stock model."""
    kept = OrderedDict((k, v) for k, v in state_dict.items() if not is_auxiliary(k))
    versions = getattr(state_dict, '_metadata', None)  # which the modules had
    if versions is not None:
        kept._metadata = OrderedDict((k, v) for k, v in versions.items() if not is_auxiliary(k))
    return kept


def is_auxiliary(name: Any) -> bool:
    """Whether a name is that of an auxiliary norm, or of something in one."""
    return isinstance(name, str) and NAME in name.split('.')


def batch_norms(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """The batch norms of a model by path, without the auxiliary ones."""
    for path, module in model.named_modules():
        if is_batch_norm(module) and not is_auxiliary(path):
            yield path, module


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is torch's batch norm, synchronised or not, one derived from it, or mmcv's
    own ``SyncBatchNorm``.
    """
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or any(
        cls.__name__ == 'SyncBatchNorm' for cls in type(module).__mro__
    )


def _with_auxiliary(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    return ((path, norm) for path, norm in batch_norms(model) if NAME in norm._modules)


def _needed(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """The norms in the tails of the sites. A teacher's are among them, so that it keeps the names
    and the order of its student's parameters.
    """
    tails: Set[nn.Module] = set()
    for module in list(model.modules()):
        if hasattr(module, 'afan_tails'):
            for settings, tail in module.afan_tails(model):
                tails.update(tail() if _asks(settings) else ())
        elif any(map(_asks, declared_by(module))):
            tails.update(model.modules())  # a site with a tail of the user's own
    return ((path, norm) for path, norm in list(batch_norms(model)) if norm in tails)


def _asks(settings: AFANSettings) -> bool:
    return settings.bn_stats == 'auxiliary' and settings.num_strengths > 0


def _refusing(path: str, site: str) -> Callable[..., torch.Tensor]:
    def forward(*args, **kwargs) -> NoReturn:
        raise RuntimeError(
            f"A-FAN site {site!r} has bn_stats='auxiliary', but the batch norm {path} in its tail "
            f'has no auxiliary one: {ADVICE}; where it is that already, the model does not '
            'register its parts in the order in which it runs them, so choose an earlier site'
        )

    return forward
