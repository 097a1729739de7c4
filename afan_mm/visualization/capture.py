"""What A-FAN does to the features of one batch, kept instead of trained on."""

from dataclasses import replace
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor, nn

from ..augment import Strength, mix
from ..functional import draw_strengths, full_precision
from ..observation import Observation
from ..settings import AFANSettings
from ..site import Site
from ..steering import Steering


class SiteFeatures(NamedTuple):
    """One level of one site; every feature is (N, C, *S) on the CPU.

    Attributes:
        name: Of the site, with the index of the level where it has several.
        settings: Those of the site; ``num_strengths`` is the number of features below.
        strengths: In units of epsilon, rising to 1.
        scale: Factor on epsilon (warm-up, and what ``target_gain`` made of it).
        clean: f.
        augmented: f + magnify * strength * direction, for each strength.
        normalized: Eq. 5 on these, for each strength; empty for a site without moments.
        finite: Whether the direction was finite; where not, nothing was perturbed.
        extent: Share of height and width that shows the first image; the rest is padding.
    """

    name: str
    settings: AFANSettings
    strengths: List[float]
    scale: float
    clean: Tensor
    augmented: List[Tensor]
    normalized: List[Tensor]
    finite: bool
    extent: Tuple[float, float] = (1.0, 1.0)


class _Capture(Observation):
    """Finds the directions as training does, and keeps the perturbed features instead of training
    on them.
    """

    def __init__(
        self,
        model: nn.Module,
        key: str,
        scale: float,
        num_strengths: Optional[int],
        magnify: float,
        steering: Optional[Steering],
    ):
        super().__init__(model, key=key, scale=scale, steering=steering)
        self.num_strengths = num_strengths
        self.magnify = magnify
        self.captured: List[SiteFeatures] = []

    def run(self, site: Site) -> None:
        """Keep what the site's passes would train on."""
        site.check()
        with self.isolated(site), self.norms(site):
            found = self.direction(site)
        scale, finite = float(self.outcome.scale_of(site)), bool(found.finite)
        for each, deltas in zip(site.group, site.split(found.deltas)):
            for level, (feature, delta) in enumerate(zip(each.features, deltas)):
                name = each.name if len(deltas) == 1 else f'{each.name}[{level}]'
                self._keep(name, each.settings, feature, delta, scale, finite)
            each.release()

    def _keep(
        self,
        name: str,
        settings: AFANSettings,
        feature: Tensor,
        delta: Tensor,
        scale: float,
        finite: bool,
    ) -> None:
        settings = replace(
            settings,
            num_strengths=self.num_strengths or settings.num_strengths,
            normalized=None,
        )
        values = draw_strengths(settings.num_strengths, 'linspace').tolist()
        clean, delta = full_precision(feature).cpu(), self.magnify * delta.cpu()
        augmented = [clean + v * delta for v in values]
        normalized = (
            [mix(settings, clean, delta, Strength(v)) for v in values] if settings.moments else []
        )
        self.captured.append(
            SiteFeatures(name, settings, values, scale, clean, augmented, normalized, finite)
        )


def first_sample(batch: Any) -> Any:
    """The batch of the first sample alone."""
    return (
        {key: first_sample(value) for key, value in batch.items()}
        if isinstance(batch, dict)
        else batch[:1]
    )


def capture(
    model: nn.Module,
    batch: dict,
    num_strengths: Optional[int] = None,
    magnify: float = 20.0,
    sites: Optional[Sequence[str]] = None,
    scale: float = 1.0,
    key: str = '',
    steering: Optional[Steering] = None,
) -> List[SiteFeatures]:
    """Clean, augmented and normalised features at every site of a model, for one batch.

    One clean pass in evaluation mode (batch norm uses its running statistics) and full precision,
    the direction of each site, and no adversarial pass. Parameters, gradients, buffers, modes and
    random streams are afterwards as before.

    Args:
        model: The host, with A-FAN components; not a data-parallel wrapper.
        batch: As from a data loader, with ground truth; its moments are those of this batch.
        num_strengths: How many, evenly spaced up to epsilon. Defaults to None, that of each site.
        magnify: Factor on the perturbation, before the normalisation. Defaults to 20 (Figures 7 to
            9).
        sites: Names of the sites. Defaults to None, all.
        scale: Factor on every epsilon. Defaults to 1.
        steering: That of the optim wrapper, for sites with a ``target_gain``. Defaults to none.
        key: Determines noise and random starts. Defaults to ''.

    Raises:
        ValueError: If the model has no such site in this pass.
    """
    session = _Capture(model, key, scale, num_strengths, magnify, steering)
    data = session.observe(batch, sites)
    return [
        each._replace(extent=_extent(data))
        for each in session.captured
        if sites is None or each.name.partition('[')[0] in sites
    ]


def _extent(data: Any) -> Tuple[float, float]:
    inputs, samples = data['inputs'], data.get('data_samples')
    height, width = inputs[0].shape[-2:]
    shown = samples[0].metainfo.get('img_shape', (height, width)) if samples else (height, width)
    return min(1.0, shown[0] / height), min(1.0, shown[1] / width)
