"""A site in the RoI head of a two-stage detector of mmdet."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..contribution import Losses
from ..declared import declared_by
from ..settings import AFANSettings
from .component import AFANComponent, find_model
from .point import Passage, Point
from .rerun import Rerun
from .tape import shadowed

SITES = ('vector', 'map')
LAST_LAYERS = ('fc_cls', 'fc_reg')


@MODELS.register_module()
class AFANRoIHead(AFANComponent):
    """A RoI head that perturbs what its box head reads or computes; in a cascade, in each stage.

    Args:
        base: Stock type of the head: ``StandardRoIHead``, ``CascadeRoIHead`` or one derived from
            them.
        afan: Settings of the site, or a list of such for several sites, and

            - ``site``: 'vector', the last vector before the classification and regression layers
              (two vectors where the box head has a branch for each), or 'map', the RoI feature map
              the box head reads. Defaults to 'vector' where the box head ends in these layers, to
              'map' elsewhere.
        kwargs: Arguments of the stock head.

    The tail is the rest of the box head and its loss on the RoIs sampled in the clean pass. The
    sites of a cascade are named after their stages, '<name>.s0' and so on, as mmdet names the
    losses. With a list, the name's default is 'roi_head.<site>'.
    """

    default_name = 'roi_head'
    allowed_base = "the type of a RoI head derived from mmdet's StandardRoIHead or CascadeRoIHead"

    options = ('site',)
    elsewhere = ('backbone', 'neck', 'decode_head', 'head', 'rpn_head', 'bbox_head')
    advice = "write roi_head=dict(type='AFANRoIHead', base=..., afan=dict(...))"

    def read_settings(
        self, afan: Union[dict, Sequence[dict]]
    ) -> Union[AFANSettings, List[AFANSettings]]:
        self.afan_options: List[str] = []
        settings = super().read_settings(afan)
        if not isinstance(self.bbox_head, nn.ModuleList):
            return settings
        each = settings if isinstance(settings, list) else [settings]
        # for each stage its sites
        return [
            replace(s, name=f'{s.name}.s{stage}')
            for stage in range(len(self.bbox_head))
            for s in each
        ]

    def pop_options(self, afan: Dict[str, Any], alone: bool) -> Dict[str, Any]:
        site = afan.pop('site', _site_for(type(head) for head in self._box_heads()))
        self.check_options(dict(site=site))
        for head in self._box_heads():
            if site == 'vector' and not _last_layers(head):
                raise ValueError(
                    "site='vector' needs a box head that ends in fc_cls and fc_reg, but "
                    f"{type(head).__name__} has neither; use site='map'"
                )
        self.afan_options.append(site)
        return afan if alone else dict(dict(name=f'{self.default_name}.{site}'), **afan)

    @classmethod
    def check_options(cls, options: Dict[str, Any]) -> None:
        site = options.get('site', SITES[0])
        if site not in SITES:
            raise ValueError(f'site must be one of {SITES}, but got {site!r}')

    @classmethod
    def accepts(cls, stock: type) -> bool:
        from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead  # only for detectors

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

    @classmethod
    def known_points(cls, head: nn.Module) -> Dict[str, Point]:
        """Where the sites are that the component knows by itself, in the order of the forward pass;
        those of the first stage of a cascade.

        Args:
            head: A stock RoI head.
        """
        heads = getattr(head, 'bbox_head', None)
        if heads is None:
            return {}
        stages = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
        points = {'map': Point(stages[0], reads=True)}
        if _site_for(type(stage) for stage in stages) == 'vector':
            points['vector'] = Point(_last_layers(stages[0])[0], reads=True)
        return points

    def bbox_loss(self, *args, **kwargs) -> dict:
        """Box results and losses of the stock head."""
        stage = 0
        if isinstance(self.bbox_head, nn.ModuleList):
            stage = kwargs['stage'] if 'stage' in kwargs else args[0]
        compute = super().bbox_loss
        for passage in self._passages(stage):
            compute = _BoxLossRerun(self, compute, passage)
        return compute(*args, **kwargs)

    @contextmanager
    def afan_perturbing(self, host: nn.Module) -> Iterator[None]:
        """A joint adversarial pass of the model that the head is part of."""
        with ExitStack() as stack:
            for stage in range(len(self._box_heads())):
                for passage in self._passages(stage):
                    if passage.settings.joint:
                        stack.enter_context(passage.perturbed())
            yield

    def afan_tails(self, host: nn.Module) -> Iterator[Tuple[AFANSettings, Callable]]:
        """For each site what gives the modules that its tail may run; after the vector there are
        but linear layers.
        """
        for stage, box_head in enumerate(self._box_heads()):
            for passage in self._passages(stage):
                at_map = type(passage) is Passage
                yield passage.settings, box_head.modules if at_map else tuple

    def _passages(self, stage: int) -> Iterator[Passage]:
        point = Point(self._box_heads()[stage], reads=True)
        first = stage * len(self.afan_options)
        for settings, site in zip(declared_by(self)[first:], self.afan_options):
            yield (_VectorPassage if site == 'vector' else Passage)(point, settings)

    def _box_heads(self) -> Sequence[nn.Module]:
        return self.bbox_head if isinstance(self.bbox_head, nn.ModuleList) else [self.bbox_head]


def _site_for(kinds: Iterable[type]) -> str:
    """'vector' where the forward of every box head is one of mmdet's plain ones, which end in
    fc_cls and fc_reg.
    """
    # only for detectors
    from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead, DoubleConvFCBBoxHead

    plain = {kind.forward for kind in (BBoxHead, ConvFCBBoxHead, DoubleConvFCBBoxHead)}
    return 'vector' if all(kind.forward in plain for kind in kinds) else 'map'


class _BoxLossRerun(Rerun):
    """One stage's box loss."""

    def losses_of(self, result: dict) -> Losses:
        return result['loss_bbox']


class _VectorPassage(Passage):
    """The last vectors of a box head, between two parts of its one forward."""

    answers_call = True

    def reach(self, stock: Callable, *features: Tensor, **options: Any) -> List[Tensor]:
        """What the last layers read: one vector where they share it."""
        # hooks of these layers wait for the call that computes something
        with shadowed((layer, lambda vector: vector) for layer in _last_layers(self.point.owner)):
            vectors = [v for v in stock(*features, **options) if v is not None]
        vectors = vectors[:1] if all(v is vectors[0] for v in vectors) else vectors
        self.levels = range(len(vectors))
        return vectors

    def resume(
        self, stock: Callable, feature: Sequence[Tensor], *args, **kwargs
    ) -> List[Optional[Tensor]]:
        """Scores and box deltas (cls_score, bbox_pred) from what the last layers read; None where a
        layer is missing.

        The vectors stand for all maps that the box head was given.
        """
        layers = [getattr(self.point.owner, name, None) for name in LAST_LAYERS]
        each = iter(list(feature) * len(layers) if len(feature) == 1 else feature)
        return [None if layer is None else layer(next(each)) for layer in layers]


def _last_layers(box_head: nn.Module) -> List[nn.Module]:
    layers = [getattr(box_head, name, None) for name in LAST_LAYERS]
    return [layer for layer in layers if layer is not None]
