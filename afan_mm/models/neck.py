"""Sites between the image and the heads; their tail is the rest of the host model's own
``loss``.
"""

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..declared import declared_by
from ..isolation import replaced
from ..settings import AFANSettings
from .component import AFANComponent, check_part
from .host_loss import HostLoss, proposing
from .point import Levels, Passage, Point, as_levels, modules_after


class IdentityNeck(nn.Module):
    """The neck of a host that has none."""

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs


class SiteOptions(NamedTuple):
    """What ``afan`` of the neck wrapper says of one site beside its settings."""

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
            - ``levels``: Indices of the perturbed levels. Defaults to ``(-1, )``, for
              'input' the backbone's last layer, for 'output' the last of the neck's; a module must
              return a single tensor where they are not given.
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
        "leave that part as it is, and name the site in neck=dict(type='AFANNeckWrapper', "
        "base=..., afan=dict(site='backbone.layer3'))"
    )

    def read_settings(
        self, afan: Union[dict, Sequence[dict]]
    ) -> Union[AFANSettings, List[AFANSettings]]:
        self.afan_options: List[SiteOptions] = []
        return super().read_settings(afan)

    def pop_options(self, afan: Dict[str, Any], alone: bool) -> Dict[str, Any]:
        options = {key: afan.pop(key) for key in self.options if key in afan}
        self.check_options(options)
        site = options.get('site', self.named_sites[0])
        levels = as_levels(options.get('levels', None if self.is_path(site) else (-1,)))
        self.afan_options.append(SiteOptions(site, levels, options.get('reuse_proposals', False)))
        if self.is_path(site):
            return dict(dict(name=site), **afan)
        return afan

    @classmethod
    def is_path(cls, site: Any) -> bool:
        """Whether a site is the path of a module."""
        return isinstance(site, str) and '.' in site

    @classmethod
    def _allowed_sites(cls) -> str:
        return f'{", ".join(map(repr, cls.named_sites))} or the path of a module'

    @classmethod
    def check_options(cls, options: Dict[str, Any]) -> None:
        site = options.get('site', cls.named_sites[0])
        if site not in cls.named_sites and not cls.is_path(site):
            raise ValueError(
                f"site must be {cls._allowed_sites()} of the host, such as 'backbone.layer3', but "
                f'got {site!r}'
            )
        reuse_proposals = options.get('reuse_proposals', False)
        if not isinstance(reuse_proposals, bool):
            raise TypeError(f'reuse_proposals must be a bool, but got {reuse_proposals!r}')
        as_levels(options.get('levels'))

    @classmethod
    def stock_class(cls, base: Union[str, type, None]) -> type:
        return IdentityNeck if base is None else super().stock_class(base)

    @classmethod
    def accepts(cls, stock: type) -> bool:
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
        check_part(type(self), path)
        owner = self.afan_owners(host)[0]
        for settings, options in zip(declared_by(self), self.afan_options):
            self.afan_point(options, host)  # which complains of an unknown one
            detector = self._keeping_proposals(settings, options, host)
            if detector is not None:
                proposing(detector)
            if self.is_path(options.site):
                continue
            if options.site == 'input' or isinstance(self, IdentityNeck):
                known = getattr(getattr(owner, 'backbone', None), 'out_indices', None)
            else:
                known = getattr(self, 'num_outs', None)
            if known is not None:
                Levels.indices(options.levels, known if isinstance(known, int) else len(known))

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
        for settings, options in zip(declared_by(self), self.afan_options):
            yield settings, partial(self._tail_of, options, host)

    def _tail_of(self, options: SiteOptions, host: nn.Module) -> List[nn.Module]:
        return modules_after(host, self.afan_point(options, host))

    def _calls(self, host: nn.Module) -> Iterator[HostLoss]:
        """For each site the host's ``loss``, as it stands when its turn comes, with the site in
        it.
        """
        for passage, options in self._passages(host):
            yield HostLoss(host, passage, self._keeping_proposals(passage.settings, options, host))

    def _keeping_proposals(
        self, settings: AFANSettings, options: SiteOptions, host: nn.Module
    ) -> Optional[nn.Module]:
        """The two-stage detector around the neck where a site's passes keep the proposals of its
        clean pass, else None; ValueError where they must and do not.
        """
        owners = self.afan_owners(host)
        detector = next(filter(_is_two_stage, owners), owners[0])
        if options.reuse_proposals or settings.joint and self._joins_rois(detector):
            return detector
        if settings.objective == 'consistency' and _is_two_stage(detector):
            raise ValueError(
                f"reuse_proposals must be True with objective='consistency' (site "
                f'{settings.name!r}), which compares predictions of the same RoIs, but got False'
            )
        return None

    def _passages(self, host: nn.Module) -> Iterator[Tuple[Passage, SiteOptions]]:
        for settings, options in zip(declared_by(self), self.afan_options):
            yield Passage(self.afan_point(options, host), settings, options.levels), options

    def _joins_rois(self, detector: nn.Module) -> bool:
        """Whether there is a joint site in the RoI head of a two-stage detector."""
        if not _is_two_stage(detector):
            return False
        inside = [s for module in detector.roi_head.modules() for s in declared_by(module)]
        inside += [
            settings
            for settings, options in zip(declared_by(self), self.afan_options)
            if options.site.startswith('roi_head.')
        ]
        return any(settings.joint and settings.num_strengths for settings in inside)

    def afan_point(self, options: SiteOptions, host: nn.Module) -> Point:
        if not self.is_path(options.site):
            return Point(self, reads=options.site == 'input')
        owners = self.afan_owners(host)
        for owner in owners:
            try:
                return Point(owner.get_submodule(options.site))
            except AttributeError:
                continue
        parent = options.site.rpartition('.')[0]
        parts = [name for name, _ in owners[0].named_modules() if name.rpartition('.')[0] == parent]
        there = f'; {parent} has {", ".join(parts)}' if parts else ''
        raise ValueError(
            f'site must be {self._allowed_sites()} of {type(owners[0]).__name__}, but got '
            f'{options.site!r}{there}'
        )

    def afan_owners(self, host: nn.Module) -> List[nn.Module]:
        """The models around the neck, from the innermost: a detector, and the tracker or the
        teacher and student that it is part of.
        """
        path = next(name for name, module in host.named_modules() if module is self)
        owners = [host]
        for name in path.split('.')[:-1]:
            owners.append(getattr(owners[-1], name))
        # a neck of several parts
        return [owner for owner in reversed(owners) if not isinstance(owner, nn.Sequential)]
