"""What to change where a perturbation is too weak, or may hurt.

Where there is no gain to start from, the advice aims at the setting of docs/study.md: late sites
perturbed together, by a tenth of the feature's norm at each position.
"""

import math
from typing import List

from .run_logs import Report

HIGH_ZERO, LOW_MIX = 0.5, 0.1
AIM = 0.05  # the relative gain that the advice on epsilon aims at: clear of both limits
STUDIED, OVERSHOT = 0.1, 0.5  # perturbations, as shares of the feature's norm
STUDY = "norm='l2', norm_over='position', epsilon_unit='norm', epsilon=0.1"
ASIDE = (
    'Strength is not benefit. In docs/study.md late sites perturbed together (joint=True; '
    f'{STUDY}) with weights of one half each helped where stock had had time to overfit. Compare '
    "with stock, and with perturbation='none', on validation data."
)


def percent(share: float) -> str:
    """A share with two digits that count, and all those before the point."""
    return f'{100 * share:.{2 if abs(share) < 1 else 4}g}%'


def weak_causes(medians: Report) -> List[str]:
    """Why a site is weak, by medians of its figures."""
    causes = []
    if medians['mix_ratio'] < LOW_MIX:
        causes.append(
            f'the normalisation leaves {medians["mix_ratio"]:.0%} of the perturbation (low: below '
            f'{LOW_MIX:.0%})'
        )
    if medians['zero_share'] > HIGH_ZERO:
        causes.append(
            f'{medians["zero_share"]:.0%} of the elements are not moved (high: above '
            f'{HIGH_ZERO:.0%})'
        )
    return causes


def advice_weak(medians: Report) -> List[str]:
    """What to change at a weak site, by medians of its figures."""
    gain, mix = medians['relative_gain'], medians['mix_ratio']
    times = AIM / gain if gain > 0 else math.inf
    if times <= 1000:
        rounded = float(f'{times:.1g}')
        size = (
            f'epsilon, {rounded:.0f} times as large (a first-order guess, for a gain of {AIM:.0%})'
        )
    else:
        size = 'epsilon, more than 1000 times as large'
    moved = mix * medians.get('relative_norm', math.nan)  # what the normalisation left of it
    if moved >= OVERSHOT:
        advice = [
            f'epsilon, smaller: the step is {percent(moved)} of the norm of the feature, and such '
            'a step overshoots'
        ]
    elif moved >= STUDIED / 2:
        advice = [
            'the site, for late ones with joint=True, as afan convert finds them: here a '
            'perturbation of the size that helped in the study hardly reaches the loss'
        ]
    else:
        advice = [f"{size}; or {STUDY}, a tenth of the feature's norm at each position"]
        if math.isnan(moved):
            advice[0] += (
                '. Smaller, however, where it is a standard deviation or more already: such a step '
                'overshoots'
            )
    if mix < HIGH_ZERO:
        advice.append(f'moments=None, which keeps all of the perturbation instead of {mix:.0%}')
    if medians['zero_share'] > HIGH_ZERO:
        advice.append('the site, for one all of whose elements reach the loss')
    return advice


def advice_strong(signs: List[str]) -> List[str]:
    """What to change at a site that may hurt, by the signs of it."""
    advice = [
        'epsilon, half as large, until the gain is well below the clean loss; or a smaller '
        'adv_weight',
        'warmup_iters of AFANHook, where only the first steps suffer',
    ]
    if any('not finite' in sign for sign in signs):
        advice.append('under mixed precision, bfloat16 instead of float16')
    return advice
