"""Sites between the image and the heads; their tail is the rest of the host model's own
``loss``.
"""

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..isolation import replaced
from ..settings import AFANSettings
from ..site import declared_by
from .component import AFANComponent, check_place
from .host_loss import HostLoss
from .point import Levels, Passage, Point, as_levels, modules_after


class IdentityNeck(nn.Module):
    """The neck of a host that has none."""

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs


class Place(NamedTuple):
    """Where one site of the neck wrapper is; see its ``afan``."""

    site: str
    levels: Optional[Tuple[int, ...]]
    reuse_proposals: bool


def _is_two_stage(model: nn.Module) -> bool:
    return all(getattr(model, part, None) is not None for part in ('rpn_head', 'roi_head'))


@MODELS.register_module()
class AFANNeckWrapper(AFANComponent):
    """A neck that perturbs what it reads, what it returns, or a feature inside the backbone.

    Args:
        base: Stock type of the neck; None for a host without one (DeepLabV3+).
        afan: Settings of the site, or a list of such for several sites, and

            - ``site``: 'input', the features of the backbone; 'output', those of the neck; or the
              path of a module of the host whose output is perturbed, such as 'backbone.layer3', the
              third stage of a ResNet. Defaults to 'input'.
            - ``levels``: Indices of the perturbed levels. Defaults to ``(-1, )``, the backbone's
              last layer, for 'input' and 'output'; a module must return a single tensor where they
              are not given.
            - ``reuse_proposals``: Whether the adversarial passes of a two-stage detector reuse the
              proposals, assignments and samples of the clean pass, instead of proposing and
              sampling anew from the perturbed feature. Defaults to False; a joint site whose
              passes perturb a site of the RoI head too always does, since that one's directions are
              for these RoIs.
        kwargs: Arguments of the stock neck.

    The tail is what the host's ``loss`` computes after the site. Losses that do not depend on the
    perturbed levels are not computed again.
    """

    default_name = 'neck'
    allowed_base = 'the type of a neck, or None for a host without one'
    options = ('site', 'levels', 'reuse_proposals')
    named_sites = ('input', 'output')  # the others are paths; the first is the default
    elsewhere = ('backbone', 'decode_head', 'auxiliary_head', 'head', 'roi_head', 'rpn_head')
    advice = (
        "leave that part as it is, and name the place in neck=dict(type='AFANNeckWrapper', "
        "base=..., afan=dict(site='backbone.layer3'))"
    )

    def _read_settings(
        self, afan: Union[dict, Sequence[dict]]
    ) -> Union[AFANSettings, List[AFANSettings]]:
        self.afan_places: List[Place] = []
        return super()._read_settings(afan)

    def _pop_options(self, afan: Dict[str, Any], alone: bool) -> Dict[str, Any]:
        options = {key: afan.pop(key) for key in self.options if key in afan}
        self._check_options(options)
        site = options.get('site', self.named_sites[0])
        levels = as_levels(options.get('levels', None if self._is_path(site) else (-1,)))
        self.afan_places.append(Place(site, levels, options.get('reuse_proposals', False)))
        if self._is_path(site):
            return dict(dict(name=site), **afan)
        return afan

    @classmethod
    def _is_path(cls, site: Any) -> bool:
        """Whether a site is the path of a module."""
        return isinstance(site, str) and '.' in site

    @classmethod
    def _allowed_sites(cls) -> str:
        return f'{", ".join(map(repr, cls.named_sites))} or the path of a module'

    @classmethod
    def _check_options(cls, options: Dict[str, Any]) -> None:
        site = options.get('site', cls.named_sites[0])
        if site not in cls.named_sites and not cls._is_path(site):
            raise ValueError(
                f"site must be {cls._allowed_sites()} of the host, such as 'backbone.layer3', but "
                f'got {site!r}'
            )
        reuse_proposals = options.get('reuse_proposals', False)
        if not isinstance(reuse_proposals, bool):
            raise TypeError(f'reuse_proposals must be a bool, but got {reuse_proposals!r}')
        as_levels(options.get('levels'))

    @classmethod
    def _stock_class(cls, base: Union[str, type, None]) -> type:
        return IdentityNeck if base is None else super()._stock_class(base)

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        return issubclass(stock, nn.Module) and not issubclass(stock, AFANComponent)

    @contextmanager
    def afan_recording(self, host: nn.Module) -> Iterator[None]:
        """The clean forward pass of the model that the neck is part of."""
        with ExitStack() as stack:
            for call in self._calls(host):
                stack.enter_context(replaced(host, loss=call))
            yield

    def afan_check(self, host: nn.Module) -> None:
        """Raise where a site is known not to exist; the first pass tells the rest.

        Args:
            host: The model that the neck is part of.
        """
        if not callable(getattr(host, 'loss', None)):
            raise ValueError(
                f'{self.afan_parts[0].__name__} needs a host with a method loss, but '
                f'{type(host).__name__} has none'
            )
        path = next(name for name, module in host.named_modules() if module is self)
        check_place(type(self), path)
        owner = self._owners(host)[0]
        for place, _ in zip(self.afan_places, self._calls(host)):
            if self._is_path(place.site):
                continue
            if place.site == 'input' or isinstance(self, IdentityNeck):
                known = getattr(getattr(owner, 'backbone', None), 'out_indices', None)
            else:
                known = getattr(self, 'num_outs', None)
            if known is not None:
                Levels.indices(place.levels, known if isinstance(known, int) else len(known))

    @contextmanager
    def afan_perturbing(self, host: nn.Module) -> Iterator[None]:
        """A joint adversarial pass of the model that the neck is part of."""
        with ExitStack() as stack:
            for passage, _ in self._passages(host):
                if passage.settings.joint:
                    stack.enter_context(passage.perturbed())
            yield

    def afan_tails(self, host: nn.Module) -> Iterator[Tuple[AFANSettings, Callable]]:
        """For each site what gives the modules that its tail may run."""
        for settings, place in zip(declared_by(self), self.afan_places):
            yield settings, partial(self._tail_of, place, host)

    def _tail_of(self, place: Place, host: nn.Module) -> List[nn.Module]:
        return modules_after(host, self._point(place, host))

    def _calls(self, host: nn.Module) -> Iterator[HostLoss]:
        """For each site the host's ``loss``, as it stands when its turn comes, with the site in
        it.
        """
        for passage, place in self._passages(host):
            detector = self._detector(host)
            reuse = place.reuse_proposals or passage.settings.joint and self._joins_rois(detector)
            self._check_compared(passage.settings, detector, reuse)
            yield HostLoss(host, passage, detector if reuse else None)

    def _detector(self, host: nn.Module) -> nn.Module:
        """The two-stage detector around the neck, or if there is none the innermost model."""
        owners = self._owners(host)
        return next(filter(_is_two_stage, owners), owners[0])

    @staticmethod
    def _check_compared(settings: AFANSettings, detector: nn.Module, reuse_proposals: bool) -> None:
        two_stage = _is_two_stage(detector)
        if settings.objective == 'consistency' and two_stage and not reuse_proposals:
            raise ValueError(
                f"reuse_proposals must be True with objective='consistency' (site "
                f'{settings.name!r}), which compares predictions of the same RoIs, but got False'
            )

    def _passages(self, host: nn.Module) -> Iterator[Tuple[Passage, Place]]:
        for settings, place in zip(declared_by(self), self.afan_places):
            yield Passage(self._point(place, host), settings, place.levels), place

    def _joins_rois(self, detector: nn.Module) -> bool:
        """Whether there is a joint site in the RoI head of a two-stage detector."""
        if not _is_two_stage(detector):
            return False
        inside = [s for module in detector.roi_head.modules() for s in declared_by(module)]
        inside += [
            settings
            for settings, place in zip(declared_by(self), self.afan_places)
            if place.site.startswith('roi_head.')
        ]
        return any(settings.joint and settings.num_strengths for settings in inside)

    def _point(self, place: Place, host: nn.Module) -> Point:
        if not self._is_path(place.site):
            return Point(self, reads=place.site == 'input')
        owners = self._owners(host)
        for owner in owners:
            try:
                return Point(owner.get_submodule(place.site))
            except AttributeError:
                continue
        parent = place.site.rpartition('.')[0]
        parts = [name for name, _ in owners[0].named_modules() if name.rpartition('.')[0] == parent]
        there = f'; {parent} has {", ".join(parts)}' if parts else ''
        raise ValueError(
            f'site must be {self._allowed_sites()} of {type(owners[0]).__name__}, but got '
            f'{place.site!r}{there}'
        )

    def _owners(self, host: nn.Module) -> List[nn.Module]:
        """The models around the neck, from the innermost: a detector, and the tracker or the
        teacher and student that it is part of.
        """
        path = next(name for name, module in host.named_modules() if module is self)
        owners = [host]
        for name in path.split('.')[:-1]:
            owners.append(getattr(owners[-1], name))
        # a neck of several parts
        return [owner for owner in reversed(owners) if not isinstance(owner, nn.Sequential)]
