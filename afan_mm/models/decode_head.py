"""A site in a decode head of mmseg."""
from typing import Any, Callable, ContextManager, Dict

from mmengine.registry import MODELS
from torch import Tensor

from ..isolation import replaced
from ..passes import Features, Losses
from ..session import is_recording, tap
from .component import AFANComponent
from .tape import Tape


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
        stock = super().loss
        if not is_recording() or self.afan.num_strengths == 0:
            return stock(*args, **kwargs)
        return _TappedLoss(self, stock)(*args, **kwargs)


class _TappedLoss:
    """One call of a head's loss in the clean pass, and how to run what comes after the site again."""

    def __init__(self, head: AFANDecodeHead, stock: Callable[..., Losses]):
        self.head = head
        self.stock = stock
        self.at_classifier = head.afan_site == 'classifier'
        self.owner = head if self.at_classifier else head.get_submodule(head.afan_site)
        self.method = 'cls_seg' if self.at_classifier else 'forward'
        self.compute = getattr(self.owner, self.method)
        self.loss_by_feat = head.loss_by_feat
        self.tape = Tape(head)
        self.arguments: Any = None
        self.logits: Any = None
        self.batch: Any = None

    def __call__(self, *args, **kwargs) -> Losses:
        self.arguments = (args, kwargs)
        with self.tape.record(), replaced(self.head, loss_by_feat=self._see_logits), self._site(self._at_site):
            losses = self.stock(*args, **kwargs)
        if self.arguments is not None:
            raise ValueError(f'{type(self.head).__name__} computes its loss without passing its site {self.head.afan_site!r}; '
                             'choose another one: ' + ', '.join(name for name, _ in self.head.named_children()))
        return losses

    def _site(self, answer: Callable) -> ContextManager:
        return replaced(self.owner, **{self.method: answer})

    def _at_site(self, *args, **kwargs) -> Any:
        feature = args[0] if self.at_classifier else self.compute(*args, **kwargs)
        context = self.tape.close(self.arguments)
        self.arguments = None  # the tensors in it are the context's now
        tapped = tap(self.head.afan.name, feature, self._tail, self.head.afan, context)
        if not self.at_classifier:
            return tapped
        self.logits = self.compute(tapped)
        return self.logits

    def _see_logits(self, seg_logits, *args, **kwargs) -> Losses:
        if seg_logits is self.logits:
            self.batch = (args, kwargs)
        self.logits = None
        return self.loss_by_feat(seg_logits, *args, **kwargs)

    def _tail(self, feature: Features, *context: Tensor) -> Losses:
        if self.batch is not None:  # the logits go straight into the loss
            args, kwargs = self.batch
            return self.loss_by_feat(self.compute(feature), *args, **kwargs)

        def answer(*args, **kwargs):
            return self.compute(feature) if self.at_classifier else feature

        with self.tape.replay(context) as (args, kwargs), self._site(answer):
            return self.stock(*args, **kwargs)
