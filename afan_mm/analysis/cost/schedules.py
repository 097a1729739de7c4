"""Other schedules for the same objective, on the taps of ``afan_mm.session``: to compare with, not
to train with.
"""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn

from ...session import Session
from ...settings import AFANSettings
from ...site import Features, Site, Tail
from .meters import timed


class SiteReached(Exception):
    """Ends a forward pass that is needed up to a site only."""


class GraphSession(Session):
    """A session that leaves the clean graph as the host builds it, keeps where each site is in it,
    and hands on losses that still hang on it.

    Args:
        stop_at: Name of a site where the forward pass ends with :class:`SiteReached`. Defaults to
            none.
    """

    def __init__(self, *args, stop_at: Optional[str] = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.stop_at = stop_at
        self.tapped: Dict[str, Tuple[List[Tensor], Sequence[Tensor]]] = {}

    def tap(
        self,
        name: str,
        features: Features,
        tail: Tail,
        settings: AFANSettings,
        context: Sequence[Tensor],
    ) -> Features:
        """See :func:`afan_mm.tap`."""
        if name == self.stop_at:
            raise SiteReached
        site = self.sites[name] = Site(name, features, tail, settings, context)
        levels = [
            f if f.requires_grad else f.detach().requires_grad_() for f in site.levels_of(features)
        ]
        # a node of its own, so that the site is told from what made the feature
        levels = [f.view_as(f) for f in levels]
        self.tapped[name] = (levels, context)
        return site.pack(levels)

    def gates_of(self, settings: AFANSettings) -> List[Any]:
        """The node that stands for the site in the graph; sites are not joined here."""
        return [self.tapped[settings.name][0][0].grad_fn]

    def backward(self, loss: Tensor, back_propagate: Callable[[Tensor], None]) -> None:
        """One backward over the clean loss and all adversarial ones."""
        tapped, self.tapped = self.tapped, {}
        sites, parts = list(self.sites.values()), [loss]
        self.back_propagate = parts.append
        for site, gradients in zip(
            sites, self.clean_gradients(loss, [tapped[site.name][0] for site in sites])
        ):
            site.gradients = gradients
        for site in sites:
            levels, context = tapped[site.name]
            self.run_on(
                site,
                site.features if site.settings.detach else levels,
                site.context if site.settings.context_detached else context,
            )
        back_propagate(sum(parts))

    def clean_gradients(
        self, loss: Tensor, levels: List[List[Tensor]]
    ) -> List[Sequence[Optional[Tensor]]]:
        """The gradients at the levels of each site."""
        raise NotImplementedError

    def run_on(self, site: Site, features: Sequence[Tensor], context: Sequence[Tensor]) -> None:
        """Like the stock run, but the passes read these tensors in place of the site's leaves."""
        with self.isolated(site):
            found = self.direction(site)
            site.features, site.context = features, context
            for strengths in self.draws.strengths(site):
                self.adversarial_pass(site, found, strengths)

    def enter(self, site: Site, levels: Sequence[Tensor]) -> Sequence[Tensor]:
        """The levels themselves: the one backward takes their gradient on."""
        return levels

    def attack(self, site: Site) -> Sequence[Optional[Tensor]]:
        """The gradient at the clean feature, by a pass of its own."""
        with self.isolated(site):
            levels = [f.clone().requires_grad_() for f in site.features]
            return self.gradient_of(self.loss(site, levels), levels)

    def time_tail(self, site: Site) -> float:
        """Seconds that one forward and backward of the tail take, from the clean feature."""
        with self.isolated(site):
            levels = [f.clone().requires_grad_(not site.settings.detach) for f in site.features]
            return timed(lambda: self.back_propagate(self.loss(site, levels)), levels[0].device)


class OneGraphSession(GraphSession):
    """Directions from the clean graph."""

    def clean_gradients(
        self, loss: Tensor, levels: List[List[Tensor]]
    ) -> List[Sequence[Optional[Tensor]]]:
        gradients = iter(
            self.gradient_of(
                loss, [each for of_site in levels for each in of_site], retain_graph=True
            )
        )
        return [[next(gradients) for _ in of_site] for of_site in levels]


class ReleasedSession(GraphSession):
    """Directions from an attack pass for each site."""

    def clean_gradients(
        self, loss: Tensor, levels: List[List[Tensor]]
    ) -> List[Sequence[Optional[Tensor]]]:
        return [self.attack(site) for site in self.sites.values()]


class TailSession(GraphSession):
    """Times the tail of each site instead of training it.

    Attributes:
        seconds: By the name of the site.
    """

    def backward(self, loss: Tensor, back_propagate: Callable[[Tensor], None]) -> None:
        self.back_propagate = back_propagate
        self.tapped.clear()
        self.seconds = {site.name: self.time_tail(site) for site in self.sites.values()}


class Schedule:
    """A schedule in front of a stock optim wrapper."""

    session_type = GraphSession

    @contextmanager
    def optim_context(self, model: nn.Module, stop_at: Optional[str] = None) -> Iterator[None]:
        """Record the clean forward pass, up to a site if one is named."""
        stock = super().optim_context
        scaler = getattr(self, 'loss_scaler', None)
        self.session = self.session_type(
            model,
            key=f'0/0/{self._inner_count}',
            forward_context=lambda: stock(model),
            weigh=self.scale_loss,
            scale_loss=scaler.scale if scaler else lambda loss: loss,
            stop_at=stop_at,
        )
        with stock(model), self.session.record():
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        """Back-propagate what the schedule adds to the clean loss with it."""
        self.session.backward(loss, super().backward)
        self.session.sites.clear()


def _wrappers(session_type: type) -> Tuple[type, type]:
    """The optim wrappers of a schedule, in full and in mixed precision."""
    return tuple(
        type(
            f'{session_type.__name__}{stock.__name__}',
            (Schedule, stock),
            dict(session_type=session_type),
        )
        for stock in (OptimWrapper, AmpOptimWrapper)
    )


ONE_GRAPH, RELEASED, TAILS = (
    _wrappers(OneGraphSession),
    _wrappers(ReleasedSession),
    _wrappers(TailSession),
)
