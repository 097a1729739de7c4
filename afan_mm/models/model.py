"""A site at the image, and batch norms for adversarial passes: what a model has as a whole."""

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.registry import MODELS
from torch import nn

from ..auxiliary_norms import (
    add_auxiliary_norms,
    copy_to_auxiliary_norms,
    fill_in,
    without_auxiliary_norms,
)
from ..isolation import replaced
from ..settings import AFANSettings
from ..site import declared_by
from .component import AFANComponent
from .host_loss import HostLoss
from .point import Passage, Point, modules_after


@MODELS.register_module()
class AFANModel(AFANComponent):
    """A model that perturbs its image, as in AdvProp, or whose sites have ``bn_stats='auxiliary'``.

    The auxiliary norms of all its sites are made with the model, so that optimizers, wrappers and
    checkpoints know them. They start as copies of the main ones: as constructed, as
    ``init_weights`` leaves those, or as in a checkpoint that has no auxiliary ones.

    Args:
        base: Stock type of the model, such as 'EncoderDecoder', 'FasterRCNN' or 'ImageClassifier'.
        afan: Settings of a site at the image as the backbone reads it, normalised and padded.
            Defaults to None, no such site.
        kwargs: Arguments of the stock model.

    The tail is the whole of the model's ``loss``.
    """

    default_name = 'image'
    allowed_base = 'the type of a model with a method loss'
    elsewhere = (
        'backbone',
        'neck',
        'decode_head',
        'auxiliary_head',
        'head',
        'roi_head',
        'rpn_head',
        'bbox_head',
    )
    advice = "write model=dict(type='AFANModel', base='<type of the stock model>', ...)"

    def __init__(self, *args: Any, afan: Optional[dict] = None, **kwargs: Any):
        super().__init__(*args, afan=[] if afan is None else afan, **kwargs)
        add_auxiliary_norms(self)

    def _read_settings(
        self, afan: Union[dict, Sequence[dict]]
    ) -> Union[AFANSettings, List[AFANSettings]]:
        self._check_one(afan)
        return super()._read_settings(afan)

    @classmethod
    def _check_afan(cls, afan: Any) -> None:
        if afan is not None:
            cls._check_one(afan)
            super()._check_afan(afan)

    @staticmethod
    def _check_one(afan: Any) -> None:
        if isinstance(afan, (list, tuple)) and afan:
            raise TypeError(f'afan of AFANModel must be one dict of settings, but got {afan!r}')

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        return (
            issubclass(stock, nn.Module)
            and callable(getattr(stock, 'loss', None))
            and not issubclass(stock, AFANComponent)
        )

    def init_weights(self) -> None:
        """Those of the stock model, and then of the auxiliary norms."""
        first = not self.is_init
        with without_auxiliary_norms(self):
            super().init_weights()
        if first:
            copy_to_auxiliary_norms(self)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        fill_in(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @contextmanager
    def afan_recording(self, host: nn.Module) -> Iterator[None]:
        """The clean forward pass of the model that this is, or is part of."""
        with ExitStack() as stack:
            for passage in self._passages():
                call = HostLoss(host, passage, reuse_proposals=False)
                stack.enter_context(replaced(host, loss=call))
            yield

    @contextmanager
    def afan_perturbing(self, host: nn.Module) -> Iterator[None]:
        """A joint adversarial pass; nothing comes before the image."""
        yield

    def afan_tails(self, host: nn.Module) -> Iterator[Tuple[AFANSettings, Callable]]:
        """For the site what gives the modules that its tail may run."""
        for passage in self._passages():
            yield passage.settings, partial(modules_after, host, passage.point)

    def _passages(self) -> Iterator[Passage]:
        for settings in declared_by(self):
            yield Passage(Point(self.backbone, reads=True), settings)
