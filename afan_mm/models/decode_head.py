"""A site in a decode head of mmseg."""

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.registry import MODELS
from torch import nn

from ..contribution import Losses
from ..declared import declared_by
from ..settings import AFANSettings
from .component import AFANComponent, did_you_mean
from .point import Passage, Point, as_levels, modules_after
from .rerun import Rerun


@MODELS.register_module()
class AFANDecodeHead(AFANComponent):
    """A decode head that perturbs features of its own.

    Args:
        base: Stock type of the head: one derived from mmseg's ``BaseDecodeHead``, or any with a
            method ``loss`` that returns a dict of losses.
        afan: Settings of the site, or a list of such for several sites, and

            - ``site``: 'classifier', what the last classifier reads, before its dropout; or the
              name of a submodule whose output is perturbed, such as DeepLabV3+'s 'bottleneck' (the
              ASPP) or 'sep_bottleneck'. Defaults to 'classifier'.
            - ``levels``: Indices of the perturbed tensors, for a submodule that returns several.
              Defaults to the only one.
        kwargs: Arguments of the stock head.

    The tail is what the head computes after the site, and its loss on the same batch.
    """

    default_name = 'decode_head'
    afan_scope = 'mmseg'
    allowed_base = 'the type of a decode head with a method loss'
    options = ('site', 'levels')
    elsewhere = ('backbone', 'neck', 'roi_head', 'rpn_head')
    advice = 'write decode_head=dict(type=..., base=..., afan=dict(...)) or head=dict(...)'

    def read_settings(
        self, afan: Union[dict, Sequence[dict]]
    ) -> Union[AFANSettings, List[AFANSettings]]:
        self.afan_options: List[Tuple[str, Optional[Tuple[int, ...]]]] = []
        return super().read_settings(afan)

    def pop_options(self, afan: Dict[str, Any], alone: bool) -> Dict[str, Any]:
        site, levels = afan.pop('site', 'classifier'), as_levels(afan.pop('levels', None))
        sites = ['classifier'] if self.classifier_of(self) else []
        named = dict(self.named_modules())
        if site not in sites and not (site in named and _has_output(site, named[site])):
            inner = [name for name in named if _has_output(name, named[name])]
            # all of them where the outer ones are but lists of modules
            sites += [name for name in inner if '.' not in name] or inner
            if not sites:
                raise ValueError(
                    'site must be a layer of the head, but this one has none, and what it reads is '
                    f'a site of AFANNeckWrapper; got {site!r}'
                )
            hint = did_you_mean(site, {*sites, *inner})
            raise ValueError(
                f'site must be one of {sites} or a submodule of these, but got {site!r}{hint}'
            )
        self.afan_options.append((site, levels))
        return afan if alone else dict(dict(name=f'{self.default_name}.{site}'), **afan)

    @classmethod
    def check_options(cls, options: Dict[str, Any]) -> None:
        if not isinstance(options.get('site', ''), str):
            raise ValueError(f'site must be the name of a submodule, but got {options["site"]!r}')
        as_levels(options.get('levels'))

    @classmethod
    def default_site(cls, stock: dict) -> Optional[str]:
        """'classifier' if a head has one, else None.

        Args:
            stock: The config of the head.
        """
        with MODELS.switch_scope_and_registry(cls.afan_scope) as registry:
            return 'classifier' if cls.classifier_of(registry.build(stock)) else None

    @classmethod
    def known_points(cls, head: nn.Module) -> Dict[str, Point]:
        """Where the sites are that the component knows by itself, in the order of the forward pass.

        Args:
            head: A stock head.
        """
        point = cls.classifier_of(head)
        return {} if point is None else {'classifier': point}

    def loss(self, *args, **kwargs) -> Losses:
        """Losses of the stock head."""
        compute = super().loss
        for passage in self._passages():
            compute = Rerun(self, compute, passage)
        return compute(*args, **kwargs)

    @contextmanager
    def afan_perturbing(self, host: nn.Module) -> Iterator[None]:
        """A joint adversarial pass of the model that the head is part of."""
        with ExitStack() as stack:
            for passage in self._passages():
                if passage.settings.joint:
                    stack.enter_context(passage.perturbed())
            yield

    def afan_tails(self, host: nn.Module) -> Iterator[Tuple[AFANSettings, Callable]]:
        """For each site what gives the modules that its tail may run."""
        for passage in self._passages():
            yield passage.settings, partial(self._tail_of, passage.point)

    def _tail_of(self, point: Point) -> List[nn.Module]:
        # what applies the classifier and nothing else is no module
        return modules_after(self, point) if point.owner is not self else []

    def _passages(self) -> Iterator[Passage]:
        for settings, (site, levels) in zip(declared_by(self), self.afan_options):
            if site == 'classifier':
                yield Passage(self.classifier_of(self), settings, levels)
            else:
                yield Passage(Point(self.get_submodule(site)), settings, levels)

    @staticmethod
    def classifier_of(head: nn.Module) -> Optional[Point]:
        """Where a head classifies; those that do it in another way than ``cls_seg`` delete the
        layer it applies.
        """
        there = hasattr(head, 'cls_seg') and getattr(head, 'conv_seg', None) is not None
        return Point(head, 'cls_seg', reads=True) if there else None


def _has_output(name: str, module: nn.Module) -> bool:
    """Whether a submodule of a head is run and gives a feature: a list of modules is not run by
    itself, and what a loss gives is not read.
    """
    return (
        bool(name)
        and type(module).forward is not nn.Module.forward
        and not any(part.startswith('loss') for part in name.split('.'))
    )
