"""Models and checkpoints of an analysis, as a command names them."""

import copy
import os.path as osp
from typing import Dict, List, Sequence, Tuple

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..auxiliary_norms import remove_auxiliary_norms
from ..utils.errors import UsageError, describe
from ..utils.models import load_exactly


def build_model(cfg: Config, device: str = 'cpu', auxiliary: bool = False) -> nn.Module:
    """The model of a config, stock or with A-FAN components, in evaluation mode; without activation
    checkpointing (``with_cp``), whose gradients cannot be asked for here.

    Args:
        cfg: The config.
        device: Defaults to 'cpu'.
        auxiliary: Whether it keeps the norms for training alone, which the directions of a site
            with ``bn_stats='auxiliary'`` are found with. Defaults to False.

    Raises:
        UsageError: If there is no such device.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    config = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:  # where mmpretrain has it; mmengine's runner does the same
        config.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(config))
    if not auxiliary:
        remove_auxiliary_norms(model)
    for module in model.modules():
        if hasattr(module, 'with_cp'):
            module.with_cp = False
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise UsageError(
            f'--device must be a device of this machine, but got {device}: {describe(error)}'
        ) from error


def named_paths(checkpoints: Sequence[str]) -> Dict[str, str]:
    """The paths of checkpoints by what figures call them.

    Args:
        checkpoints: Each a path, or ``NAME=PATH``. What has no name has that of its file, or its
            whole path where files share a name.

    Raises:
        UsageError: If two have one name.
    """
    pairs: List[Tuple[str, str]] = []
    stems = [osp.splitext(osp.basename(given))[0] for given in checkpoints]
    for given, stem in zip(checkpoints, stems):
        name, sign, path = given.partition('=')
        if sign and name and not osp.exists(given):
            pairs.append((name, path))
        else:
            pairs.append((stem if stems.count(stem) == 1 else given, given))
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(
            f'checkpoints must have different names, but several are {", ".join(repeated)}'
        )
    return dict(pairs)


def read_states(model: nn.Module, paths: Dict[str, str]) -> Dict[str, Dict[str, Tensor]]:
    """The weights and buffers of checkpoints by name, all of them fit for the model, which keeps
    those of the last.

    Raises:
        UsageError: If one cannot be read, or is of another model.
    """
    states = {}
    for name, path in paths.items():
        load_exactly(model, path)
        states[name] = {key: value.clone() for key, value in model.state_dict().items()}
    return states
