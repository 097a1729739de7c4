"""Sites on the paths of a model that has no place for a component."""

from typing import Any, Dict, List, Union

from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from .component import AFANComponent
from .neck import AFANNeckWrapper


@MODELS.register_module()
class AFANHost(AFANNeckWrapper):
    """A whole model that perturbs features of modules of its own: for one that takes no neck, such
    as SAN or Mask2Former for video.

    Args:
        base: Stock type of the model, with a method ``loss`` that returns a dict of losses.
        afan: Settings of the site, or a list of such for several sites, and

            - ``site``: The path of a module of the model whose output is perturbed, such as
              'backbone' or 'image_encoder.transformer.resblocks.11'.
            - ``levels``: Indices of the perturbed tensors, for a module that returns several.
              Defaults to the only one.
            - ``reuse_proposals``: As that of :class:`AFANNeckWrapper`.
        kwargs: Arguments of the stock model.
    """

    default_name = 'model'
    allowed_base = 'the type of a model with a method loss'
    elsewhere = (*AFANNeckWrapper.elsewhere, 'neck')
    advice = "write model=dict(type='AFANHost', base=..., afan=dict(site='backbone', ...))"

    @classmethod
    def _stock_class(cls, base: Union[str, type, None]) -> type:
        return super(AFANNeckWrapper, cls)._stock_class(base)

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        return (
            issubclass(stock, BaseModel)
            and callable(getattr(stock, 'loss', None))
            and not issubclass(stock, AFANComponent)
        )

    @staticmethod
    def _is_path(site: Any) -> bool:
        return isinstance(site, str) and bool(site)

    @classmethod
    def _check_options(cls, options: Dict[str, Any]) -> None:
        if not cls._is_path(options.get('site')):
            raise ValueError(
                "site must be the path of a module of the model, such as 'backbone', but got "
                f'{options.get("site")!r}'
            )
        super()._check_options(options)

    def _owners(self, host: nn.Module) -> List[nn.Module]:
        return [self]
