"""A site in a decode head of mmseg."""
from typing import Any, Dict

from mmengine.registry import MODELS
from torch import Tensor

from ..isolation import replaced
from ..site import Losses
from .component import AFANComponent
from .rerun import Point, Rerun


@MODELS.register_module()
class AFANDecodeHead(AFANComponent):
    """A decode head that perturbs one of its features.

    Args:
        base: Stock type of the head, any that derives from mmseg's ``BaseDecodeHead``.
        afan: Settings of the site, and

            - ``site``: 'classifier', what the last classifier reads, before its dropout; or the name of a submodule whose output is
              perturbed, such as DeepLabV3+'s 'bottleneck' (the ASPP) or 'sep_bottleneck'. Defaults to 'classifier'.
        kwargs: Arguments of the stock head.

    The tail is what the head computes after the site, and its loss on the same batch.
    """
    default_name = 'decode_head'
    allowed_base = "the type of a decode head derived from mmseg's BaseDecodeHead"

    def _pop_options(self, afan: Dict[str, Any]) -> Dict[str, Any]:
        self.afan_site = afan.pop('site', 'classifier')
        sites = ['classifier', *(name for name, _ in self.named_children())]
        if self.afan_site != 'classifier' and self.afan_site not in dict(self.named_modules()):
            raise ValueError(f'site of {type(self).__name__} must be one of {sites} or a submodule of these, '
                             f'but got {self.afan_site!r}')
        return afan

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead
        return issubclass(stock, BaseDecodeHead) and not issubclass(stock, AFANComponent)

    def loss(self, *args, **kwargs) -> Losses:
        """Losses of the stock head."""
        if self.afan_site == 'classifier':
            rerun = _ClassifierRerun(self, super().loss, Point(self, 'cls_seg', reads=True), self.afan)
        else:
            rerun = Rerun(self, super().loss, Point(self.get_submodule(self.afan_site)), self.afan)
        return rerun(*args, **kwargs)


class _ClassifierRerun(Rerun):
    """Where the logits go straight into the loss, as in most heads, only the classifier and the loss run again."""
    _logits: Any = None
    _batch: Any = None

    def __call__(self, *args, **kwargs) -> Losses:
        """Losses of the stock head."""
        self._loss_by_feat = self.root.loss_by_feat
        with replaced(self.root, loss_by_feat=self._see_logits):
            return super().__call__(*args, **kwargs)

    def _go_on(self, feature: Tensor, *args, **kwargs) -> Tensor:
        self._logits = super()._go_on(feature, *args, **kwargs)
        return self._logits

    def _see_logits(self, seg_logits: Any, *args, **kwargs) -> Losses:
        if self._logits is not None and seg_logits is self._logits:
            self._batch = (args, kwargs)
        self._logits = None
        return self._loss_by_feat(seg_logits, *args, **kwargs)

    def _tail(self, perturbed, *context: Tensor) -> Losses:
        if self._batch is None:
            return super()._tail(perturbed, *context)
        args, kwargs = self._batch
        return self._loss_by_feat(self._stock(*perturbed), *args, **kwargs)
