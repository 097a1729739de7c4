"""What a model has as a whole: a site at its image, sites on paths of its own where it takes
no other component, and batch norms for adversarial passes.
"""

from typing import Any, Dict, List, Optional, Union

from mmengine.registry import MODELS
from torch import nn

from ..auxiliary_norms import (
    add_auxiliary_norms,
    copy_to_auxiliary_norms,
    fill_in,
    without_auxiliary_norms,
)
from .neck import AFANNeckWrapper, SiteOptions
from .point import Point


@MODELS.register_module()
class AFANModel(AFANNeckWrapper):
    """A model that perturbs its image, as in AdvProp; whose sites have ``bn_stats='auxiliary'``; or
    that takes no neck, such as SAN or Mask2Former for video.

    The auxiliary norms of all its sites are made with the model, so that optimizers, wrappers and
    checkpoints know them. They start as copies of the main ones: as constructed, as
    ``init_weights`` leaves those, or as in a checkpoint that has no auxiliary ones.

    Args:
        base: Stock type of the model, such as 'EncoderDecoder', 'FasterRCNN' or 'ImageClassifier';
            it has a method ``loss`` that returns a dict of losses.
        afan: Settings of a site of its own, or a list of such for several, and

            - ``site``: 'image', as the backbone reads it, normalised and padded; or the path of a
              module of the model whose output is perturbed, such as 'backbone' or
              'image_encoder.transformer.resblocks.11'. Defaults to 'image'.
            - ``levels``: Indices of the perturbed tensors of a module that returns several.
              Defaults to the only one.
            - ``reuse_proposals``: As that of :class:`AFANNeckWrapper`.

            Defaults to None, no such site.
        kwargs: Arguments of the stock model.

    The tail of the image is the whole of the model's ``loss``.
    """

    default_name = 'image'
    allowed_base = 'the type of a model with a method loss'
    named_sites = ('image',)
    elsewhere = (*AFANNeckWrapper.elsewhere, 'neck', 'bbox_head')
    advice = "write model=dict(type='AFANModel', base='<type of the stock model>', ...)"

    def __init__(self, *args: Any, afan: Optional[Any] = None, **kwargs: Any):
        super().__init__(*args, afan=[] if afan is None else afan, **kwargs)
        add_auxiliary_norms(self)
        # after those of the stock model, which may rename what a checkpoint has (TimmClassifier)
        self._register_load_state_dict_pre_hook(_complete, with_module=True)

    @classmethod
    def is_path(cls, site: Any) -> bool:
        return isinstance(site, str) and site not in ('', *cls.named_sites)

    @classmethod
    def stock_class(cls, base: Union[str, type, None]) -> type:
        return super(AFANNeckWrapper, cls).stock_class(base)

    @classmethod
    def accepts(cls, stock: type) -> bool:
        return super(AFANNeckWrapper, cls).accepts(stock)

    def init_weights(self) -> None:
        """Those of the stock model, and then of the auxiliary norms."""
        first = not self.is_init
        with without_auxiliary_norms(self):
            super().init_weights()
        if first:
            copy_to_auxiliary_norms(self)

    def afan_owners(self, host: nn.Module) -> List[nn.Module]:
        return [self]

    def afan_point(self, options: SiteOptions, host: nn.Module) -> Point:
        if self.is_path(options.site):
            return super().afan_point(options, host)
        if not isinstance(getattr(self, 'backbone', None), nn.Module):
            raise ValueError(
                f"site 'image' is what the backbone reads, but {self.afan_parts[1].__name__} has "
                "none; write site='<path of a module>'"
            )
        return Point(self.backbone, reads=True)


def _complete(model: nn.Module, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
    fill_in(state_dict, model, prefix)
