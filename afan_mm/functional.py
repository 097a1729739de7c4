"""The mathematics of A-FAN on plain tensors; torch only.

Shapes, everywhere in this module: a feature is (N, C, *S) with N samples, C channels and any number
of spatial axes S, so (N, C, H, W) for a feature map and (N, C) for a RoI vector.
"""

from typing import Optional, Sequence, Union

import torch
from torch import Tensor

MOMENTS = ('batch', 'instance', 'layer', 'group', 'positional')
STRENGTHS = ('uniform', 'linspace')


def full_precision(feature: Tensor) -> Tensor:
    """The feature in at least float32: a perturbation of 0.4/255 is below the resolution of a
    half-precision 1.0.
    """
    return feature.float() if feature.dtype in (torch.float16, torch.bfloat16) else feature


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether every element is finite, 0-dim; nobody waits for the answer.

    Args:
        tensors: At least one; strided, on one device, and none of them empty.
    """
    tensors = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
    if tensors[0].is_cpu:  # what is not finite shows in the extremes, of one read
        extremes = [e for t in tensors for e in torch.aminmax(full_precision(t))]
    else:  # one kernel for all of them
        extremes = torch._foreach_norm(tensors, float('inf'))
    return torch.stack(list(extremes)).isfinite().all()


def average(feature: Tensor, kind: str, num_groups: int = 32) -> Tensor:
    """Mean over the axes of one normalisation, in a shape that broadcasts against the feature.

    ============  =======================  ===============
    kind          averaged axes            result
    ============  =======================  ===============
    'batch'       N, S                     (1, C, 1...)
    'instance'    S                        (N, C, 1...)
    'layer'       C, S                     (N, 1, 1...)
    'group'       C within a group, S      (N, C, 1...)
    'positional'  C                        (N, 1, *S)
    ============  =======================  ===============

    Args:
        feature: (N, C, *S).
        kind: One of the table.
        num_groups: Channel groups of ``kind='group'``; must divide C. Defaults to 32.

    Raises:
        ValueError: If ``kind`` is unknown or ``num_groups`` does not divide C.
    """
    if kind not in MOMENTS:
        raise ValueError(f'moments must be one of {MOMENTS} or None, but got {kind!r}')
    if kind == 'group':
        num_samples, channels = feature.shape[:2]
        if channels % num_groups:
            raise ValueError(
                f'num_groups must divide the {channels} channels of the feature, but got '
                f'{num_groups}'
            )
        means = (
            feature.reshape(num_samples, num_groups, -1)
            .mean(-1)
            .repeat_interleave(channels // num_groups, 1)
        )
        return means.reshape(num_samples, channels, *[1] * (feature.dim() - 2))
    spatial = tuple(range(2, feature.dim()))
    axes = dict(batch=(0, *spatial), instance=spatial, layer=(1, *spatial), positional=(1,))[kind]
    # 'instance' of a vector: each element is its own population
    return feature.mean(axes, keepdim=True) if axes else feature


def inject_moments(
    clean: Tensor,
    delta: Tensor,
    strength: Union[float, Tensor] = 1.0,
    kind: Optional[str] = 'batch',
    num_groups: int = 32,
    eps: float = 1e-5,
    unbiased: bool = False,
) -> Tensor:
    """Adversarial feature normalisation, Eq. 5: ``std_adv * (clean - mean_clean) / std_clean +
    mean_adv``.

    The moments are those of ``clean`` and of ``adv = clean + strength * delta``. The latter are
    polynomials in the strength, ``mean_adv = mean + strength * mean(delta)`` and ``var_adv = var +
    2 * strength * cov + strength**2 * var(delta)``, so a strength for each sample has moments as if
    the whole population shared it.

    Args:
        clean, delta: (N, C, *S).
        strength: A number, or one for each sample, (N,). Defaults to 1.
        kind: See :func:`average`. Defaults to 'batch', the paper's "routine of batch normalization"
            (Sec. 3.4). None returns ``adv`` itself (augmentation without normalisation, "AFA"), and
            so does a feature of no samples, such as that of a batch without RoIs.
        num_groups: See :func:`average`.
        eps: Added to the variances under the root, so that a constant channel is not 0 / 0.
            Defaults to 1e-5.
        unbiased: Divide the variances by n - 1 instead of n (the released code). Defaults to False.

    Returns:
        f_mix, (N, C, *S).
    """
    if isinstance(strength, Tensor):
        strength = strength.reshape(-1, *[1] * (clean.dim() - 1)).to(clean.dtype)
    if kind is None or not clean.numel():
        if isinstance(strength, Tensor):
            return torch.addcmul(clean, delta, strength)
        return torch.add(clean, delta, alpha=strength)
    mean, mean_delta = average(clean, kind, num_groups), average(delta, kind, num_groups)
    centred, centred_delta = clean - mean, delta - mean_delta
    var, cov, var_delta = (
        average(product, kind, num_groups) * _correction(clean, kind, num_groups, unbiased)
        for product in (centred.square(), centred * centred_delta, centred_delta.square())
    )
    # Rounding may take a variance of nothing below zero.
    var_adv = (var + 2 * strength * cov + strength**2 * var_delta).clamp(min=0)
    return ((var_adv + eps) / (var + eps)).sqrt() * centred + (mean + strength * mean_delta)


def _correction(feature: Tensor, kind: str, num_groups: int, unbiased: bool) -> float:
    """n / (n - 1) for a population of n values; 1 where the variance is biased or of a single
    value.
    """
    (num_samples, channels), size = feature.shape[:2], feature[0, 0].numel()
    count = dict(
        batch=num_samples * size,
        instance=size,
        layer=channels * size,
        group=channels // num_groups * size,
        positional=channels,
    )[kind]
    return count / (count - 1) if unbiased and count > 1 else 1.0


def draw_strengths(
    num_strengths: int,
    kind: str = 'uniform',
    generator: Optional[torch.Generator] = None,
    size: Optional[int] = None,
) -> Tensor:
    """Strengths in units of epsilon, each in [0, 1].

    Args:
        num_strengths: k in Eq. 4.
        kind: 'uniform' draws them independently from [0, 1] (Sec. 3.3); 'linspace' takes ``1/k,
            2/k, ..., 1``, evenly spaced from clean to adversarial with the clean end left out (the
            released code). Defaults to 'uniform'.
        generator: A CPU generator. Defaults to torch's own.
        size: Draw so many strengths, each independently one of the k. Defaults to None, the k
            themselves.

    Returns:
        (num_strengths,), or (size,), on the CPU.
    """
    if kind == 'uniform':
        return torch.rand(num_strengths if size is None else size, generator=generator)
    if kind == 'linspace':
        ladder = torch.arange(1, num_strengths + 1, dtype=torch.float64) / num_strengths
        return (
            ladder
            if size is None
            else ladder[torch.randint(num_strengths, (size,), generator=generator)]
        )
    raise ValueError(f'strengths must be one of {STRENGTHS}, but got {kind!r}')
