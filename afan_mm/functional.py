"""The mathematics of A-FAN on plain tensors; torch only.

Shapes, everywhere in this module: a feature is (N, C, *S) with N samples, C channels and any number of spatial axes S, so
(N, C, H, W) for a feature map and (N, C) for a RoI vector.
"""
from typing import List, Optional, Tuple

import torch
from torch import Tensor

MOMENTS = ('batch', 'instance', 'layer', 'group', 'positional')
STRENGTHS = ('uniform', 'linspace')


def full_precision(feature: Tensor) -> Tensor:
    """The feature in at least float32: a perturbation of 0.4/255 is below the resolution of a half-precision 1.0."""
    return feature.float() if feature.dtype in (torch.float16, torch.bfloat16) else feature


def moments(feature: Tensor, kind: str = 'batch', num_groups: int = 32, eps: float = 1e-5) -> Tuple[Tensor, Tensor]:
    """Mean and standard deviation of a feature over the axes of one normalisation (Sec. 3.4).

    ============  =======================  ===================
    kind          reduced axes             mean and std shapes
    ============  =======================  ===================
    'batch'       N, S                     (1, C, 1...)
    'instance'    S                        (N, C, 1...)
    'layer'       C, S                     (N, 1, 1...)
    'group'       C within a group, S      (N, C, 1...)
    'positional'  C                        (N, 1, *S)
    ============  =======================  ===================

    Args:
        feature: (N, C, *S). Half precision is reduced in float32.
        kind: One of the table. Defaults to 'batch', the paper's "routine of batch normalization".
        num_groups: Channel groups of ``kind='group'``; must divide C. Defaults to 32.
        eps: Added to the biased variance under the root, so a constant channel has std ``sqrt(eps)``. Defaults to 1e-5.

    Raises:
        ValueError: If ``kind`` is unknown or ``num_groups`` does not divide C.
    """
    if kind not in MOMENTS:
        raise ValueError(f'moments must be one of {MOMENTS} or None, but got {kind!r}')
    feature = full_precision(feature)
    if kind == 'group':
        return _group_moments(feature, num_groups, eps)
    spatial = tuple(range(2, feature.dim()))
    axes = dict(batch=(0, *spatial), instance=spatial, layer=(1, *spatial), positional=(1, ))[kind]
    if not axes:  # 'instance' of a vector: every element is its own population
        return feature, torch.full_like(feature, eps**0.5)
    mean = feature.mean(axes, keepdim=True)
    return mean, (feature.var(axes, unbiased=False, keepdim=True) + eps).sqrt()


def _group_moments(feature: Tensor, num_groups: int, eps: float) -> Tuple[Tensor, Tensor]:
    num_samples, channels = feature.shape[:2]
    if channels % num_groups:
        raise ValueError(f'num_groups must divide the {channels} channels of the feature, but got {num_groups}')
    # With the groups in the channel axis, a group is a sample's "channel" and its members are positions.
    grouped = feature.reshape(num_samples, num_groups, -1)
    shape = (num_samples, channels) + (1, ) * (feature.dim() - 2)
    return tuple(m.expand(-1, -1, channels // num_groups).reshape(shape) for m in moments(grouped, 'instance', eps=eps))


def inject_moments(clean: Tensor,
                   adversarial: Tensor,
                   kind: Optional[str] = 'batch',
                   num_groups: int = 32,
                   eps: float = 1e-5) -> Tensor:
    """Adversarial feature normalisation, Eq. 5: ``std_adv * (clean - mean_clean) / std_clean + mean_adv``.

    Args:
        clean, adversarial: (N, C, *S).
        kind: See :func:`moments`. None returns ``adversarial`` itself (augmentation without normalisation, "AFA").

    Returns:
        f_mix, (N, C, *S).
    """
    if kind is None:
        return adversarial
    mean_clean, std_clean = moments(clean, kind, num_groups, eps)
    mean_adv, std_adv = moments(adversarial, kind, num_groups, eps)
    return std_adv * (clean - mean_clean) / std_clean + mean_adv


def draw_strengths(num_strengths: int, kind: str = 'uniform', generator: Optional[torch.Generator] = None) -> List[float]:
    """The strengths of one step in units of epsilon, each in [0, 1].

    Args:
        num_strengths: How many; k in Eq. 4.
        kind: 'uniform' draws them independently from [0, 1] (Sec. 3.3); 'linspace' takes ``1/k, 2/k, ..., 1``, evenly spaced
            from clean to adversarial with the clean end left out (the released code). Defaults to 'uniform'.
        generator: A CPU generator for 'uniform'.
    """
    if kind == 'uniform':
        return torch.rand(num_strengths, generator=generator).tolist()
    if kind == 'linspace':
        return [i / num_strengths for i in range(1, num_strengths + 1)]
    raise ValueError(f'strengths must be one of {STRENGTHS}, but got {kind!r}')
