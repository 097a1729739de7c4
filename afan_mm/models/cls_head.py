"""A site in a head of mmpretrain."""

from typing import Optional

from mmengine.registry import MODELS
from torch import nn

from .decode_head import AFANDecodeHead
from .point import Point


@MODELS.register_module()
class AFANClsHead(AFANDecodeHead):
    """A classification head that perturbs features of its own.

    Args:
        base: Stock type of the head: any with a method ``loss`` that returns a dict of losses.
        afan: Settings of the site, or a list of such for several sites, and

            - ``site``: 'classifier', the vector that the last classifying layer reads; or the name
              of a submodule whose output is perturbed, such as 'layers.pre_logits' of a vision
              transformer's. Defaults to 'classifier'.
            - ``levels``: Indices of the perturbed tensors, for a submodule that returns several.
              Defaults to the only one.
        kwargs: Arguments of the stock head.

    The tail is what the head computes after the site, and its loss on the same batch, with the
    targets as Mixup, CutMix or label smoothing left them.
    """

    default_name = 'head'
    afan_scope = 'mmpretrain'
    elsewhere = ('backbone', 'neck', 'roi_head', 'rpn_head', 'decode_head')
    allowed_base = 'the type of a classification head with a method loss'

    @staticmethod
    def classifier_of(head: nn.Module) -> Optional[Point]:
        """The last layer with an output for each class; None where there is none, or where a head
        consists of several with losses of their own.
        """
        parts = [part for part in head.modules() if callable(getattr(part, 'loss', None))]
        if len(parts) > 1:
            return None
        classes = getattr(head, 'num_classes', None)
        for layer in reversed(list(head.modules())):
            outputs = getattr(layer, 'out_features', getattr(layer, 'out_channels', None))
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and classes in (None, outputs):
                return Point(layer, reads=True)
        return None
