"""What A-FAN did to the features: a few figures per site, computed only when somebody asks for
them.
"""

from collections import defaultdict
from typing import Callable, Dict, List, Sequence, Union

import torch
from torch import Tensor


class Health:
    """Figures of the adversarial passes, by site.

    ===================  ===========================================================================
    ``objective``        mean over the strengths of a pass's loss
    ``gain``             ``objective`` minus the loss of the same tail on the clean feature, at the
                         same parameters
    ``delta_norm``       l2 norm of the perturbation at full strength, over all levels
    ``relative_norm``    ``delta_norm`` over the l2 norm of the feature, of a joint site in its pass
    ``zero_share``       share of elements the perturbation leaves where they are
    ``nonfinite_share``  share of steps since the last report that were skipped: the direction was
                         not finite, or the loss of the batch did not depend on the feature
    ``mix_ratio``        rms(f_mix - f) / rms(f_adv - f): what the normalisation left of the
                         perturbation
    ``epsilon_factor``   what ``target_gain`` has made of epsilon; only at sites that have one
    ===================  ===========================================================================

    Joint sites share the passes, and so ``objective`` and ``gain``.

    Args:
        due: Whether the next step is measured. Unmeasured steps only count skipped directions, on
            the device.
    """

    def __init__(self, due: bool = False):
        self.due = due
        self._forget()

    def _forget(self) -> None:
        self._figures: Dict[str, Dict[str, Tensor]] = defaultdict(dict)
        self._mixes: Dict[str, List[Tensor]] = defaultdict(list)
        self._losses: Dict[str, List[Tensor]] = defaultdict(list)
        self._sizes: Dict[str, Tensor] = {}
        self._perturbations: Dict[str, Dict[str, Tensor]] = {}
        self._factors: Dict[str, Tensor] = {}
        self._skipped: Dict[str, Tensor] = {}
        self._steps: Dict[str, int] = defaultdict(int)

    @torch.no_grad()
    def add_mix(
        self,
        name: str,
        strength: Union[float, Tensor],
        clean: Sequence[Tensor],
        mixed: Sequence[Tensor],
        deltas: Sequence[Tensor],
    ) -> None:
        """A pass perturbs the feature of a site."""
        if self.due:
            self._sizes[name] = torch.stack(
                [_rms(d) / c.float().std(unbiased=False) for d, c in zip(deltas, clean)]
            ).max()
            tiny = torch.finfo(torch.float32).tiny  # a feature of zeros
            delta_norm = _norm(deltas)
            self._perturbations[name] = dict(
                delta_norm=delta_norm,
                relative_norm=delta_norm / _norm(clean).clamp(min=tiny),
                zero_share=sum((d == 0).sum() for d in deltas)
                / max(sum(d.numel() for d in deltas), 1),
            )
            moved = _norm([m.float() - c.float() for m, c in zip(mixed, clean)])
            if isinstance(strength, Tensor):  # one for each sample
                added = _norm([strength.reshape(-1, *[1] * (d.dim() - 1)) * d for d in deltas])
            else:
                added = strength * delta_norm
            self._mixes[name].append(torch.stack([moved, added]))

    def add_loss(self, name: str, loss: Tensor) -> None:
        """A pass that perturbs a site has run forward."""
        if self.due:
            self._losses[name].append(loss.detach().float())

    def add_factor(self, name: str, factor: Tensor) -> None:
        """What the epsilon of a site with a ``target_gain`` is multiplied by from now on."""
        if self.due:
            self._factors[name] = factor

    @torch.no_grad()
    def add_step(self, name: str, finite: Tensor, clean_loss: Callable[[], Tensor]) -> None:
        """The passes that perturb a site are over."""
        skipped = (~finite).float()
        self._skipped[name] = self._skipped[name] + skipped if name in self._skipped else skipped
        self._steps[name] += 1
        if self.due:
            objective = torch.stack(self._losses.pop(name)).mean()
            moved, added = torch.stack(self._mixes.pop(name)).mean(0)
            self._figures[name] = dict(
                objective=objective,
                gain=objective - clean_loss().float(),
                **self._perturbations.pop(name),
                # 0 / 0 where nothing was added: the normalisation kept all of nothing.
                mix_ratio=torch.where(added > 0, moved / added, torch.ones_like(added)),
            )

    def relative_sizes(self) -> Dict[str, float]:
        """How large the perturbation of the last measured step is at each site: its rms at full
        strength, where it is not zero, over the standard deviation of the feature; of several
        levels the largest.
        """
        return {name: float(size) for name, size in self._sizes.items()}

    def report(self) -> Dict[str, float]:
        """The figures of the last measured step as ``'<site>/<figure>'``, and forget them."""
        report = {
            f'{name}/{key}': float(value)
            for name, figures in self._figures.items()
            for key, value in figures.items()
        }
        report.update(
            {
                f'{name}/nonfinite_share': float(s) / self._steps[name]
                for name, s in self._skipped.items()
            }
        )
        report.update(
            {f'{name}/epsilon_factor': float(factor) for name, factor in self._factors.items()}
        )
        self._forget()
        return report


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.float().norm() for t in tensors]).norm()


def _rms(delta: Tensor) -> Tensor:
    """Over the elements that are not zero."""
    return delta.float().norm() / (delta != 0).sum().clamp(min=1).sqrt()
