"""A site at the inputs or outputs of a neck; its tail is the host model's own ``loss``."""
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..passes import Features, Losses
from ..session import is_recording, tap
from .component import AFANComponent
from .host_call import HostCall

SITES = ('input', 'output')


class IdentityNeck(nn.Module):
    """The neck of a host that has none."""

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs


@MODELS.register_module()
class AFANNeckWrapper(AFANComponent):
    """A neck that perturbs what it reads or what it returns.

    Args:
        base: Stock type of the neck; None for a host without one (DeepLabV3+).
        afan: Settings of the site, and

            - ``site``: 'input', the features of the backbone, or 'output', those of the neck. Defaults to 'input'.
            - ``levels``: Indices of the perturbed levels. Defaults to ``(-1, )``, the backbone's last layer.
        kwargs: Arguments of the stock neck.

    The tail is the neck and the host's ``loss``, with the host's ``extract_feat`` answered from the clean pass. Losses that do not
    depend on the perturbed levels are not computed again.
    """
    default_name = 'neck'
    allowed_base = 'the type of a neck, or None for a host without one'

    def _pop_options(self, afan: Dict[str, Any]) -> Dict[str, Any]:
        self.afan_site = afan.pop('site', 'input')
        levels = afan.pop('levels', (-1, ))
        if self.afan_site not in SITES:
            raise ValueError(f'site must be one of {SITES}, but got {self.afan_site!r}')
        if not isinstance(levels, (list, tuple)) or not levels or not all(type(level) is int for level in levels):
            raise ValueError(f'levels must be a list of integers, but got {levels!r}')
        self.afan_levels = tuple(levels)
        self._host_call: Optional[HostCall] = None
        return afan

    @classmethod
    def _stock_class(cls, base: Union[str, type, None]) -> type:
        return IdentityNeck if base is None else super()._stock_class(base)

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        return issubclass(stock, nn.Module) and not issubclass(stock, AFANComponent)

    def check_levels(self, backbone: Optional[nn.Module]) -> None:
        """Raise where the levels are known not to exist; where their number is not known yet, the first pass will tell."""
        passes_through = self.afan_site == 'input' or isinstance(self, IdentityNeck)
        known = getattr(backbone, 'out_indices', None) if passes_through else getattr(self, 'num_outs', None)
        if known is not None:
            Levels.indices(self.afan_levels, known if isinstance(known, int) else len(known))

    @contextmanager
    def recording(self, host: nn.Module) -> Iterator[None]:
        """The clean forward pass of the model that owns the neck."""
        self._host_call = HostCall(host, self)
        try:
            with self._host_call.record():
                yield
        finally:
            self._host_call = None

    def forward(self, inputs: Features, *args, **kwargs) -> Features:
        """Neck outputs, as the stock neck returns them."""
        neck = super().forward
        call = self._host_call
        if call is None or not is_recording() or self.afan.num_strengths == 0:
            return neck(inputs, *args, **kwargs)
        at_input = self.afan_site == 'input'
        clean = Levels(inputs if at_input else neck(inputs, *args, **kwargs), self.afan_levels)

        def outputs(perturbed: Sequence[Tensor], others: Sequence[Tensor]) -> Features:
            features = clean.join(perturbed, others)
            return neck(features, *args, **kwargs) if at_input else features

        def tail(perturbed: Sequence[Tensor], *others: Tensor) -> Losses:
            return call.losses(lambda: outputs(perturbed, others))

        perturbed, others = clean.split()
        tapped = tap(self.afan.name, perturbed, tail, self.afan, others)
        returned = outputs(tapped, others)
        call.see_site(tapped[0], returned)
        return returned


class Levels:
    """A multi-level feature, split into the perturbed levels and the others.

    Args:
        features: A tensor, or a list or tuple of tensors.
        levels: Indices of the perturbed ones.
    """

    def __init__(self, features: Features, levels: Sequence[int]):
        self._is_tensor = isinstance(features, Tensor)
        self._container = type(features)
        self._features = [features] if self._is_tensor else list(features)
        self._num_levels = len(self._features)
        self._chosen = self.indices(levels, self._num_levels)

    def split(self) -> Tuple[List[Tensor], List[Tensor]]:
        """The perturbed levels and the others, handed over: what the tail holds on to must not carry a graph."""
        features, self._features = self._features, []
        return [features[i] for i in self._chosen], [f for i, f in enumerate(features) if i not in self._chosen]

    def join(self, perturbed: Sequence[Tensor], others: Sequence[Tensor]) -> Features:
        """The feature as it came, with these tensors in place of its own."""
        others = iter(others)
        chosen = dict(zip(self._chosen, perturbed))
        joined = [chosen[i] if i in chosen else next(others) for i in range(self._num_levels)]
        return joined[0] if self._is_tensor else self._container(joined)

    @staticmethod
    def indices(levels: Sequence[int], num_levels: int) -> List[int]:
        """The levels counted from zero; ValueError where there is no such level or one is named twice."""
        if not all(-num_levels <= level < num_levels for level in levels):
            raise ValueError(f'levels must lie in [{-num_levels}, {num_levels - 1}] for a feature of {num_levels} levels, '
                             f'but got {tuple(levels)}')
        indices = [level % num_levels for level in levels]
        if len(set(indices)) < len(indices):
            raise ValueError(f'levels must be different levels, but got {tuple(levels)} for a feature of {num_levels} levels')
        return indices
