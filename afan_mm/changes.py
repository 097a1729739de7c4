"""What a pass does to the feature of a site before it goes on."""

from typing import Callable, List, Sequence

from torch import Tensor
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from .augment import Strength, mix, moments_of
from .functional import full_precision
from .health import Health
from .site import Site

Change = Callable[[Sequence[Tensor]], List[Tensor]]


def adding(deltas: Sequence[Tensor]) -> Change:
    """That of an attack pass: a delta is added to each level."""
    return lambda levels: [(full_precision(f) + d).to(f.dtype) for f, d in zip(levels, deltas)]


def mixing(
    site: Site, deltas: List[Tensor], strength: Strength, health: Health, is_last: bool = False
) -> Change:
    """That of an adversarial pass (Eqs. 4 and 5).

    Args:
        site: Whose feature it is.
        deltas: At full strength, for each level.
        strength: Of this pass.
        health: Is told what became of the feature.
        is_last: Whether no other pass needs the deltas, which are as large as the feature: they are
            taken out of their list. Defaults to False.
    """
    has_moments = moments_of(site.settings, strength) is not None

    def change(levels: Sequence[Tensor]) -> List[Tensor]:
        with record_function(f'afan/{site.name}/mix'):
            mixed = [
                # Computed again in the backward: cheap, and several copies of the feature less to
                # keep until then.
                checkpoint(
                    mix,
                    site.settings,
                    f,
                    d,
                    strength,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                if has_moments
                else mix(site.settings, f, d, strength)  # a sum keeps nothing
                for f, d in zip(levels, deltas)
            ]
        health.add_mix(site.name, strength.value, levels, mixed, deltas)
        if is_last:
            deltas.clear()
        return mixed

    return change
