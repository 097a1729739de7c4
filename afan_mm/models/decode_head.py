"""A site in a decode head of mmseg."""

from typing import Any, Dict, Optional

from mmengine.registry import MODELS
from torch import nn

from ..site import Losses
from .component import AFANComponent
from .point import Point, as_levels
from .rerun import Rerun


@MODELS.register_module()
class AFANDecodeHead(AFANComponent):
    """A decode head that perturbs one of its features.

    Args:
        base: Stock type of the head: one derived from mmseg's ``BaseDecodeHead``, or any with a
            method ``loss`` that returns a dict of losses.
        afan: Settings of the site, and

            - ``site``: 'classifier', what the last classifier reads, before its dropout; or the
              name of a submodule whose output is perturbed, such as DeepLabV3+'s 'bottleneck' (the
              ASPP) or 'sep_bottleneck'. Defaults to 'classifier'.
            - ``levels``: Indices of the perturbed tensors, for a submodule that returns several.
              Defaults to the only one.
        kwargs: Arguments of the stock head.

    The tail is what the head computes after the site, and its loss on the same batch.
    """

    default_name = 'decode_head'
    allowed_base = 'the type of a decode head with a method loss'

    def _pop_options(self, afan: Dict[str, Any]) -> Dict[str, Any]:
        self.afan_site = afan.pop('site', 'classifier')
        self.afan_levels = as_levels(afan.pop('levels', None))
        sites = ['classifier'] if _has_classifier(self) else []
        if self.afan_site not in sites and self.afan_site not in dict(self.named_modules()):
            sites += [name for name, _ in self.named_children()]
            raise ValueError(
                f'site of {type(self).__name__} must be one of {sites} or a submodule of these, '
                f'but got {self.afan_site!r}'
            )
        return afan

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        return (
            issubclass(stock, nn.Module)
            and callable(getattr(stock, 'loss', None))
            and not issubclass(stock, AFANComponent)
        )

    @classmethod
    def default_site(cls, stock: dict) -> Optional[str]:
        """'classifier' if a head has one, else None.

        Args:
            stock: The config of the head.
        """
        with MODELS.switch_scope_and_registry('mmseg') as registry:
            return 'classifier' if _has_classifier(registry.build(stock)) else None

    def loss(self, *args, **kwargs) -> Losses:
        """Losses of the stock head."""
        if self.afan_site == 'classifier':
            point = Point(self, 'cls_seg', reads=True)
        else:
            point = Point(self.get_submodule(self.afan_site))
        rerun = Rerun(self, super().loss, point, self.afan, self.afan_levels)
        return rerun(*args, **kwargs)


def _has_classifier(head: nn.Module) -> bool:
    """Heads that classify in another way than ``cls_seg`` delete the layer it applies."""
    return hasattr(head, 'cls_seg') and getattr(head, 'conv_seg', None) is not None
