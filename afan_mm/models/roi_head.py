"""A site in the RoI head of a two-stage detector of mmdet."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..isolation import replaced
from ..settings import AFANSettings
from ..site import Losses
from .component import AFANComponent, find_model
from .point import Point
from .rerun import Rerun

SITES = ('vector', 'map')
LAST_LAYERS = ('fc_cls', 'fc_reg')


@MODELS.register_module()
class AFANRoIHead(AFANComponent):
    """A RoI head that perturbs what its box head reads; in a cascade, a site for each stage.

    Args:
        base: Stock type of the head: ``StandardRoIHead``, ``CascadeRoIHead`` or one derived from
            them.
        afan: Settings of the site, and

            - ``site``: 'vector', the last vector before the classification and regression layers
              (two vectors where the box head has a branch for each), or 'map', the RoI feature map
              the box head reads. Defaults to 'vector' where the box head ends in these layers, to
              'map' elsewhere.
        kwargs: Arguments of the stock head.

    The tail is the rest of the box head and its loss on the RoIs sampled in the clean pass. The
    sites of a cascade are named after their stages, '<name>.s0' and so on, as mmdet names the
    losses.
    """

    default_name = 'roi_head'
    allowed_base = "the type of a RoI head derived from mmdet's StandardRoIHead or CascadeRoIHead"

    def _read_settings(self, afan: dict) -> Union[AFANSettings, List[AFANSettings]]:
        settings = super()._read_settings(afan)
        if not isinstance(self.bbox_head, nn.ModuleList):
            return settings
        return [
            replace(settings, name=f'{settings.name}.s{stage}')
            for stage in range(len(self.bbox_head))
        ]

    def _pop_options(self, afan: Dict[str, Any]) -> Dict[str, Any]:
        self.afan_site = afan.pop('site', _site_for(type(head) for head in self._box_heads()))
        if self.afan_site not in SITES:
            raise ValueError(f'site must be one of {SITES}, but got {self.afan_site!r}')
        for head in self._box_heads():
            if self.afan_site == 'vector' and not _last_layers(head):
                raise ValueError(
                    "site='vector' needs a box head that ends in fc_cls and fc_reg, but "
                    f'{type(head).__name__} has '
                    "neither; use site='map'"
                )
        return afan

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead

        return issubclass(stock, (StandardRoIHead, CascadeRoIHead)) and not issubclass(
            stock, AFANComponent
        )

    @classmethod
    def default_site(cls, stock: dict) -> Optional[str]:
        """The site where none is given, or None for a RoI head without boxes.

        Args:
            stock: The config of the RoI head.
        """
        box_heads = stock.get('bbox_head') or []
        kinds = [
            find_model(each['type'])
            for each in (box_heads if isinstance(box_heads, (list, tuple)) else [box_heads])
        ]
        return _site_for(kinds) if kinds else None

    def bbox_loss(self, *args, **kwargs) -> dict:
        """Box results and losses of the stock head."""
        stage: Optional[int] = None
        if isinstance(self.bbox_head, nn.ModuleList):
            stage = kwargs['stage'] if 'stage' in kwargs else args[0]
        return _BoxLossRerun(self, super().bbox_loss, stage)(*args, **kwargs)

    def _box_heads(self) -> Sequence[nn.Module]:
        return self.bbox_head if isinstance(self.bbox_head, nn.ModuleList) else [self.bbox_head]


def _site_for(kinds: Iterable[type]) -> str:
    """'vector' where the forward of every box head is one of mmdet's plain ones, which end in
    fc_cls and fc_reg.
    """
    from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead, DoubleConvFCBBoxHead

    plain = {kind.forward for kind in (BBoxHead, ConvFCBBoxHead, DoubleConvFCBBoxHead)}
    return 'vector' if all(kind.forward in plain for kind in kinds) else 'map'


class _BoxLossRerun(Rerun):
    """One stage's box loss.

    Args:
        roi_head: The RoI head.
        compute: Its stock ``bbox_loss``.
        stage: The stage of a cascade; None for a head without stages.
    """

    def __init__(self, roi_head: AFANRoIHead, compute, stage: Optional[int]):
        self._box_head = roi_head.bbox_head if stage is None else roi_head.bbox_head[stage]
        settings = roi_head.afan if stage is None else roi_head.afan[stage]
        super().__init__(roi_head, compute, Point(self._box_head, reads=True), settings)
        self._weight = 1.0 if stage is None else roi_head.stage_loss_weights[stage]
        if roi_head.afan_site == 'vector':
            self._stock_forward, self._stock = self._stock, self._classify

    def _losses_of(self, result: dict) -> Losses:
        return {
            key: value * self._weight if 'loss' in key else value
            for key, value in result['loss_bbox'].items()
        }

    def _at_site(self, *features: Tensor, **options: Any) -> Any:
        if self.root.afan_site == 'map' or self._arguments is None:
            return super()._at_site(*features, **options)
        vectors = self._vectors(features)
        self._tape.forget_running_call()  # its last layers gave what they read
        self._levels = range(len(vectors))
        return super()._at_site(vectors)

    def _vectors(self, features: Sequence[Tensor]) -> List[Tensor]:
        """What the last layers read: one vector where they share it."""
        with ExitStack() as stack:
            for layer in _last_layers(self._box_head):
                stack.enter_context(replaced(layer, forward=lambda vector: vector))
            vectors = [v for v in self._stock_forward(*features) if v is not None]
        return vectors[:1] if all(v is vectors[0] for v in vectors) else vectors

    def _classify(self, vectors: Sequence[Tensor], *features: Tensor) -> List[Optional[Tensor]]:
        """Scores and box deltas (cls_score, bbox_pred) from what the last layers read; None where a
        layer is missing.

        ``features`` are further maps that the box head was given; the vectors stand for all of
        them.
        """
        layers = [getattr(self._box_head, name, None) for name in LAST_LAYERS]
        each = iter(list(vectors) * len(layers) if len(vectors) == 1 else vectors)
        return [None if layer is None else layer(next(each)) for layer in layers]


def _last_layers(box_head: nn.Module) -> List[nn.Module]:
    layers = [getattr(box_head, name, None) for name in LAST_LAYERS]
    return [layer for layer in layers if layer is not None]
