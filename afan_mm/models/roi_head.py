"""A site in the RoI head of a two-stage detector of mmdet."""
from contextlib import ExitStack
from typing import Any, Callable, Dict, Sequence

from mmengine.registry import MODELS
from torch import Tensor

from ..isolation import replaced
from ..site import Losses
from ..session import is_recording, tap
from .component import AFANComponent

SITES = ('vector', 'map')


@MODELS.register_module()
class AFANRoIHead(AFANComponent):
    """A RoI head that perturbs what its box head reads.

    Args:
        base: Stock type of the head, ``StandardRoIHead`` or one derived from it.
        afan: Settings of the site, and

            - ``site``: 'vector', the last vector before the classification and regression layers (two vectors where the box
              head has a branch for each), or 'map', the RoI feature map the box head reads. Defaults to 'vector'.
        kwargs: Arguments of the stock head.

    The tail is the rest of the box head and its loss on the RoIs sampled in the clean pass.
    """
    default_name = 'roi_head'
    allowed_base = "the type of a RoI head derived from mmdet's StandardRoIHead"

    def _pop_options(self, afan: Dict[str, Any]) -> Dict[str, Any]:
        self.afan_site = afan.pop('site', 'vector')
        if self.afan_site not in SITES:
            raise ValueError(f'site must be one of {SITES}, but got {self.afan_site!r}')
        if self.afan_site == 'vector' and not self._last_layers():
            raise ValueError(f"site='vector' needs a box head that ends in fc_cls and fc_reg, but {type(self.bbox_head).__name__} "
                             "has neither; use site='map'")
        return afan

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        from mmdet.models.roi_heads import StandardRoIHead
        return issubclass(stock, StandardRoIHead) and not issubclass(stock, AFANComponent)

    def bbox_loss(self, *args, **kwargs) -> dict:
        """Box results and losses of the stock head."""
        stock = super().bbox_loss
        if not is_recording(self.afan):
            return stock(*args, **kwargs)
        with _TappedBoxHead(self, self._last_layers()).record():
            return stock(*args, **kwargs)

    def _last_layers(self) -> list:
        layers = [getattr(self.bbox_head, name, None) for name in ('fc_cls', 'fc_reg')]
        return [layer for layer in layers if layer is not None]


class _TappedBoxHead:
    """The box head in one clean pass, and how to run what comes after the site again."""

    def __init__(self, roi_head: AFANRoIHead, last_layers: list):
        self.roi_head = roi_head
        self.box_head = roi_head.bbox_head
        self.last_layers = last_layers
        self.forward = self.box_head.forward
        self.loss_and_target = self.box_head.loss_and_target
        self.targets: Dict[str, Any] = {}

    def record(self) -> ExitStack:
        return replaced(self.box_head, forward=self._tapped_forward, loss_and_target=self._recorded_loss)

    def _tapped_forward(self, *features: Tensor) -> Any:
        if self.roi_head.afan_site == 'map':
            return self.forward(*self._tap(features, self.forward))
        return self._classify(*self._tap(self._vectors(features), self._classify))

    def _tap(self, features: Sequence[Tensor], rest: Callable[..., Any]) -> Sequence[Tensor]:

        def tail(features: Sequence[Tensor]) -> Losses:
            cls_score, bbox_pred = rest(*features)
            return self.loss_and_target(**{**self.targets, 'cls_score': cls_score, 'bbox_pred': bbox_pred})['loss_bbox']

        return tap(self.roi_head.afan.name, features, tail, self.roi_head.afan)

    def _recorded_loss(self, cls_score: Tensor, bbox_pred: Tensor, **targets) -> dict:
        self.targets = targets
        return self.loss_and_target(cls_score=cls_score, bbox_pred=bbox_pred, **targets)

    def _vectors(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the last layers read: one vector where they share it."""
        with ExitStack() as stack:
            for layer in self.last_layers:
                stack.enter_context(replaced(layer, forward=lambda vector: vector))
            vectors = [v for v in self.forward(*features) if v is not None]
        return vectors[:1] if all(v is vectors[0] for v in vectors) else vectors

    def _classify(self, *vectors: Tensor) -> Sequence[Any]:
        """Scores and box deltas (cls_score, bbox_pred) from what the last layers read; None where a layer is missing."""
        per_layer = iter(vectors * len(self.last_layers) if len(vectors) == 1 else vectors)
        layers = (getattr(self.box_head, 'fc_cls', None), getattr(self.box_head, 'fc_reg', None))
        return [None if layer is None else layer(next(per_layer)) for layer in layers]
