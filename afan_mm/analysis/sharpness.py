"""Sharpness in feature space: how fast the loss rises when the feature at a site is perturbed."""

from dataclasses import replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..observation import Observation
from ..settings import AFANSettings
from ..site import Site
from ..utils.checks import check_integer

QUANTILES = (0.1, 0.5, 0.9)


class SharpnessSettings(NamedTuple):
    """What :func:`measure_sharpness` looks at.

    Attributes:
        num_points: Strengths, evenly spaced up to epsilon. Defaults to 8.
        num_random: Random directions for each image. Defaults to 4.
        sites: Names of sites. Defaults to None, all.
        overrides: Settings of every site in place of its own, such as ``epsilon``,
            ``epsilon_unit`` or ``num_steps``. Defaults to none.
        seed: Of the random directions and of what the host draws. Defaults to 0.
    """

    num_points: int = 8
    num_random: int = 4
    sites: Optional[Sequence[str]] = None
    overrides: Dict[str, Any] = {}
    seed: int = 0

    def at(self, site: AFANSettings) -> AFANSettings:
        """The settings with which a site is looked at: whatever it is trained with, along the
        gradient of the tail's loss, as far as its epsilon says, and by itself.
        """
        plain = dict(
            perturbation='gradient',
            noise_epsilon=None,
            joint=False,
            objective='loss',
            target_gain=None,
        )
        return replace(site, **{**plain, **self.overrides})


class SiteLosses(NamedTuple):
    """The losses of one image at one site.

    Attributes:
        settings: With which it was perturbed.
        clean: The tail's loss on the clean feature.
        adversarial: (num_points,), along the adversarial direction.
        random: (num_random, num_points), along random ones.
        finite: Whether the direction was finite; where not, the losses are those of no
            perturbation.
    """

    settings: AFANSettings
    clean: float
    adversarial: np.ndarray
    random: np.ndarray
    finite: bool


class _Sharpness(Observation):
    """Finds the directions as training does, and follows them instead of training on them."""

    def __init__(self, model: nn.Module, settings: SharpnessSettings, key: str):
        super().__init__(model, key=key)
        self.settings = settings
        self.found: Dict[str, SiteLosses] = {}

    def tap(self, name: str, features: Any, tail: Any, settings: AFANSettings, context: Any) -> Any:
        """See :func:`~afan_mm.tap`."""
        return super().tap(name, features, tail, self.settings.at(settings), context)

    def run(self, site: Site) -> None:
        """The losses along the directions of one site, if it is one to look at."""
        if self.settings.sites is not None and site.name not in self.settings.sites:
            return
        site.check()
        with self.isolated(site):
            found = self.direction(site)
        device = site.features[0].device
        strengths = strengths_of(self.settings.num_points)

        def along(deltas: Sequence[Tensor]) -> List[float]:
            return [self._loss_at(site, deltas, strength) for strength in strengths]

        generator = torch.Generator(device).manual_seed(self.draws.seed(site, 'signs'))
        random = [
            along([random_signs(delta, generator) for delta in found.deltas])
            for _ in range(self.settings.num_random)
        ]
        self.found[site.name] = SiteLosses(
            site.settings,
            self._loss_at(site, found.deltas, 0.0),
            np.array(along(found.deltas)),
            np.array(random).reshape(self.settings.num_random, len(strengths)),
            bool(found.finite),
        )
        site.release()

    def _loss_at(self, site: Site, deltas: Sequence[Tensor], strength: float) -> float:
        levels = [(f + strength * d).to(f.dtype) for f, d in zip(site.features, deltas)]
        # the same draws of the host at every strength
        with self.isolated(site), torch.no_grad():
            return float(self.loss(site, levels))


def strengths_of(num_points: int) -> List[float]:
    """In units of epsilon: 1/n, 2/n, ..., 1."""
    return [(index + 1) / num_points for index in range(num_points)]


def random_signs(delta: Tensor, generator: torch.Generator) -> Tensor:
    """A perturbation as large as another one in every element, with independent random signs.

    It has the other's norm, whatever norm that is, and touches the same elements: what differs is
    the direction alone.
    """
    half = torch.full_like(delta, 0.5)
    return delta * (2 * torch.bernoulli(half, generator=generator) - 1)


def image_sharpness(
    model: nn.Module, batch: dict, settings: SharpnessSettings, index: int = 0
) -> Dict[str, SiteLosses]:
    """The losses of one batch along the directions of each site; with one image in it, of this
    image.

    The model is in evaluation mode; parameters, gradients, buffers, modes and random streams are
    afterwards as before.

    Args:
        model: The host, with A-FAN components.
        batch: As from a data loader, with ground truth in the frame of the input.
        settings: What to look at.
        index: Of the batch: what is drawn depends on it. Defaults to 0.

    Raises:
        ValueError: If the model has no such site in this pass.
    """
    session = _Sharpness(model, settings, key=str(settings.seed + index))
    session.observe(batch, settings.sites, settings.seed + index)
    return session.found


def measure_sharpness(
    model: nn.Module,
    batches: Sequence[dict],
    settings: Optional[SharpnessSettings] = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Dict[str, Dict[str, Any]]:
    """How much the loss rises along the adversarial direction of each site, and along random ones.

    Args:
        model, settings: See :func:`image_sharpness`.
        batches: Of one image each, so that quantiles are over images; see
            :func:`~afan_mm.analysis.losses.annotated`.
        on_batch: Called after each.

    Returns:
        By site, plain numbers, ready for JSON: ``strengths`` in units of epsilon, ``epsilon``,
        ``unit`` and ``norm``; ``images`` that count and those ``left_out`` because their direction
        or a loss was not finite; ``clean``, the mean loss of the tail; for ``adversarial`` and
        ``random`` the rise of the loss over the clean one at each strength, its ``mean`` and, by
        quantile over images (and random directions), its ``quantiles``.

    Raises:
        ValueError: If a setting is wrong, or a site has no image that counts.
    """
    settings = settings or SharpnessSettings()
    check_integer('num_points', settings.num_points, least=1)
    check_integer('num_random', settings.num_random, least=1)
    found: Dict[str, List[SiteLosses]] = {}
    for index, batch in enumerate(batches):
        for name, losses in image_sharpness(model, batch, settings, index).items():
            found.setdefault(name, []).append(losses)
        on_batch()
    return {name: _summary(name, each, settings) for name, each in found.items()}


def _summary(name: str, found: List[SiteLosses], settings: SharpnessSettings) -> Dict[str, Any]:
    counted = [
        each
        for each in found
        if each.finite and np.isfinite([each.clean, *each.adversarial, *each.random.ravel()]).all()
    ]
    if not counted:
        raise ValueError(f'site {name!r} must have a finite loss for an image, but has none')
    first = counted[0].settings
    adversarial = np.stack([each.adversarial - each.clean for each in counted])
    random = np.concatenate([each.random - each.clean for each in counted])
    return dict(
        strengths=strengths_of(settings.num_points),
        epsilon=first.epsilon,
        unit=first.epsilon_unit,
        norm=first.norm,
        images=len(counted),
        left_out=len(found) - len(counted),
        clean=float(np.mean([each.clean for each in counted])),
        adversarial=_statistics(adversarial),
        random=_statistics(random),
    )


def _statistics(rises: np.ndarray) -> Dict[str, Any]:
    """Over the first axis."""
    return dict(
        mean=rises.mean(0).tolist(),
        quantiles={str(q): np.quantile(rises, q, axis=0).tolist() for q in QUANTILES},
    )
