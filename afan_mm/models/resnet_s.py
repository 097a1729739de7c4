"""The small ResNets for CIFAR; a config imports this module, as it needs mmpretrain."""

import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock
from torch import Tensor, nn


class PaddedShortcut(nn.Module):
    """Every second pixel, and zeros for the added channels: He et al. 2016, option A."""

    def __init__(self, out_channels: int, stride: int):
        super().__init__()
        self.out_channels, self.stride = out_channels, stride

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        added = self.out_channels - inputs.shape[1]
        kept = inputs[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, added // 2, added - added // 2))


@MODELS.register_module()
class ResNetS(ResNet_CIFAR):
    """ResNet-20s, 32s, 44s, 56s, 110s: three stages of 16, 32 and 64 channels, each half the size
    of the one before, with shortcuts that have no parameters (He et al. 2016, Sec. 4.2).

    Args:
        depth: 6 n + 2, for n blocks in each stage.
        kwargs: Arguments of mmpretrain's ``ResNet_CIFAR``.
    """

    arch_settings = {6 * n + 2: (BasicBlock, (n, n, n)) for n in (3, 5, 7, 9, 18)}

    def __init__(self, depth: int, **kwargs):
        stages = dict(
            stem_channels=16,
            base_channels=16,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
        )
        super().__init__(depth, **{**stages, **kwargs})

    def make_res_layer(self, **kwargs) -> nn.Module:
        """A stage, the first block of which has no projection."""
        stage = super().make_res_layer(**kwargs)
        if stage[0].downsample is not None:
            stage[0].downsample = PaddedShortcut(kwargs['out_channels'], kwargs['stride'])
        return stage
