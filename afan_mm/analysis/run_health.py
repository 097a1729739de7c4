"""What the figures of a run say about the strength of its perturbations.

A site is judged by medians over the later half of its reports: the first steps of a training, and a
warm-up, say little. What decides is the relative gain, ``gain / (objective - gain)``: how much
higher the adversarial loss is than the loss of the same tail on the clean feature, at the same
parameters and for the same batch. It has no unit and compares across sites and models.
``delta_norm`` cannot decide, because the norm of the feature is not logged; it is shown, and zero
means that nothing was moved.

A gain grows with epsilon only as long as the feature is moved by little: one step far beyond a
standard deviation overshoots, and its gain can fall to nothing. The figures do not tell such a site
from a weak one, so the advice names both.

The limits are rules of thumb, not figures of the paper:

===================  ===============================================================================
relative gain < 1 %  too weak. Eq. 6 then adds nearly the clean loss, ``num_strengths`` times: what
                     a larger weight would do too
relative gain >= 1   may hurt. The adversarial loss is at least twice the clean one, so that most of
                     the objective is about features that the network never meets once it is trained
diverging            may hurt. From the first to the last third of at least 6 reports the objective
                     rose by more than 10 % while the clean loss of the same batches fell by more
                     than 10 %: the network pays for one with the other
not finite           may hurt. Adversarial losses were not finite; or directions after the first
                     report, whose passes then count nothing. The first report is exempt: mixed
                     precision finds its loss scale in it
gain of both signs   cannot tell. More than a quarter of the gains are negative by more than 1 % of
                     the clean loss; an ascent cannot do that, so the passes differ in something
                     else, such as proposals that are sampled anew
zero share > 50 %    a reason for a weak site: most elements have no gradient to follow
mix ratio < 10 %     a reason for a weak site: the normalisation takes away nearly all of the
                     perturbation
===================  ===============================================================================
"""

import math
from pathlib import Path
from statistics import median
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..utils.errors import UsageError
from .run_logs import Report, read_run

WEAK_GAIN, STRONG_GAIN = 0.01, 1.0
TREND, TREND_REPORTS = 0.1, 6
NEGATIVE_SHARE = 0.25
HIGH_ZERO, LOW_MIX = 0.5, 0.1
AIM = 0.05  # the relative gain that the advice on epsilon aims at: clear of both limits
WEAK, STRONG, UNCLEAR, FINE = (
    'too weak to matter',
    'strong enough to hurt',
    'cannot tell',
    'neither too weak nor too strong',
)


def judge(reports: List[Report]) -> Dict[str, Any]:
    """The verdict on one site.

    Args:
        reports: Of :func:`~afan_mm.analysis.run_logs.read_run`.

    Returns:
        dict: ``verdict``, one of WEAK, STRONG, UNCLEAR and FINE; ``medians`` of the figures;
        ``reasons`` and ``advice``, lists of sentences; ``reports``, how many were judged;
        ``iters``, the first and the last of them.
    """
    judged = reports[len(reports) // 2 :]
    medians = {key: _median(judged, key) for key in judged[-1] if key != 'iter'}
    verdict, reasons, advice = _decide(reports, judged, medians)
    return dict(
        verdict=verdict,
        medians=medians,
        reasons=reasons,
        advice=advice,
        reports=len(judged),
        iters=[judged[0]['iter'], judged[-1]['iter']],
    )


def judged_run(path: Path, sites: Optional[Sequence[str]] = None) -> Dict[str, Any]:
    """A run with a verdict on each of its sites.

    Args:
        path: A work folder, or a ``scalars.json``.
        sites: Names of those that are wanted. Defaults to None, all.

    Returns:
        dict: As that of :func:`~afan_mm.analysis.run_logs.read_run`, with ``verdicts``, what
        :func:`judge` says, by site.

    Raises:
        UsageError: If there is no such site, or no figures of A-FAN.
    """
    found = read_run(path)
    unknown = [site for site in sites or () if site not in found['sites']]
    if unknown:
        raise UsageError(
            f'--sites must be some of {", ".join(found["sites"])} in {path}, but got '
            f'{", ".join(unknown)}'
        )
    found['sites'] = {
        site: reports for site, reports in found['sites'].items() if not sites or site in sites
    }
    found['verdicts'] = {site: judge(reports) for site, reports in found['sites'].items()}
    return found


def verdicts_in_words(name: str, found: Dict[str, Any]) -> str:
    """Several lines on a run of :func:`judged_run`, called ``name``."""
    lines = [name]
    for site, verdict in found['verdicts'].items():
        medians = verdict['medians']
        relative, clean = medians['relative_gain'], medians['clean']
        lines += [
            f'  {site}: {verdict["verdict"].upper()}',
            f'    medians of {verdict["reports"]} reports, iterations {verdict["iters"][0]} to '
            f'{verdict["iters"][1]}:',
            # of the median share, whose sign need not be that of the median gain
            f'      gain {relative * clean:.2g} = {percent(relative)} of the clean loss '
            f'{clean:.3g} (weak below {WEAK_GAIN:.0%}, strong from {STRONG_GAIN:.0%})',
            f'      mix ratio {medians["mix_ratio"]:.2f} (low below {LOW_MIX}), zero share '
            f'{medians["zero_share"]:.0%} (high above {HIGH_ZERO:.0%}), delta norm '
            f'{medians["delta_norm"]:.3g}, not finite {medians["nonfinite_share"]:.0%}',
        ]
        lines += [f'    because: {reason}' for reason in verdict['reasons']]
        lines += [f'    change: {advice}' for advice in verdict['advice']]
    return '\n'.join(lines)


def percent(share: float) -> str:
    """A share with two digits that count, and all those before the point."""
    return f'{100 * share:.{2 if abs(share) < 1 else 4}g}%'


def _decide(
    reports: List[Report], judged: List[Report], medians: Report
) -> Tuple[str, List[str], List[str]]:
    """Verdict, reasons and advice."""
    gain = medians['relative_gain']
    negative = sum(report['relative_gain'] < -WEAK_GAIN for report in judged) / len(judged)
    strong = _strong_signs(reports, judged, gain)
    if strong:
        return STRONG, strong, _advice_strong(strong)
    if medians['delta_norm'] == 0:
        return (
            WEAK,
            ['the perturbation is zero'],
            [
                "nothing if perturbation='none' or epsilon=0 is meant; otherwise the site, as no "
                'loss depends on what is perturbed'
            ],
        )
    if negative > NEGATIVE_SHARE:
        reason = (
            f'{negative:.0%} of the gains are negative by more than {WEAK_GAIN:.0%} of the clean '
            'loss '
            f'(the limit is {NEGATIVE_SHARE:.0%})'
        )
        return (
            UNCLEAR,
            [reason],
            [
                'in a two-stage detector, reuse_proposals=True: then the adversarial passes have '
                'the proposals of the clean one',
                "with perturbation='gaussian' or a very large epsilon nothing: there a negative "
                'gain may be real',
            ],
        )
    if abs(gain) < WEAK_GAIN:
        return (
            WEAK,
            [f'the gain is below {WEAK_GAIN:.0%} of the clean loss', *_weak_causes(medians)],
            _advice_weak(medians),
        )
    return (
        FINE,
        [f'the gain is between {WEAK_GAIN:.0%} and {STRONG_GAIN:.0%} of the clean loss'],
        [],
    )


def _median(reports: List[Report], key: str) -> float:
    values = [report[key] for report in reports if math.isfinite(report.get(key, math.nan))]
    return median(values) if values else math.nan


def _strong_signs(reports: List[Report], judged: List[Report], gain: float) -> List[str]:
    signs = []
    if gain >= STRONG_GAIN:
        signs.append(f'the gain is at least {STRONG_GAIN:.0%} of the clean loss')
    if len(reports) >= TREND_REPORTS:
        third = len(reports) // 3
        change = {
            key: _median(reports[-third:], key) / _median(reports[:third], key) - 1
            for key in ('objective', 'clean')
        }
        if change['objective'] > TREND and change['clean'] < -TREND:
            signs.append(
                f'the objective rose by {change["objective"]:.0%} while the clean loss fell by '
                f'{-change["clean"]:.0%} '
                f'(the limit is {TREND:.0%} each)'
            )
    infinite = sum(not math.isfinite(report['relative_gain']) for report in judged)
    if infinite:
        signs.append(f'{infinite} of {len(judged)} adversarial or clean losses were not finite')
    broken = [report for report in reports[1:] if report.get('nonfinite_share', 0) > 0]
    if broken:
        worst = max(report['nonfinite_share'] for report in broken)
        signs.append(
            f'up to {worst:.0%} of the directions were not finite, last in the report of '
            f'iteration {broken[-1]["iter"]}'
        )
    return signs


def _weak_causes(medians: Report) -> List[str]:
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


def _advice_weak(medians: Report) -> List[str]:
    gain, mix = medians['relative_gain'], medians['mix_ratio']
    times = AIM / gain if gain > 0 else math.inf
    if times <= 1000:
        rounded = float(f'{times:.1g}')
        size = (
            f'epsilon, {rounded:.0f} times as large (a first-order guess, for a gain of {AIM:.0%})'
        )
    else:
        size = 'epsilon, more than 1000 times as large'
    advice = [
        f"{size}; or epsilon_unit='std' with e.g. epsilon=0.1, a tenth of each channel's standard "
        'deviation. Smaller, '
        'however, where it is a standard deviation or more already: such a step overshoots'
    ]
    if mix < HIGH_ZERO:
        advice.append(f'moments=None, which keeps all of the perturbation instead of {mix:.0%}')
    if medians['zero_share'] > HIGH_ZERO:
        advice.append('the site, for one all of whose elements reach the loss')
    return advice


def _advice_strong(signs: List[str]) -> List[str]:
    advice = [
        'epsilon, half as large, until the gain is well below the clean loss; or a smaller '
        'adv_weight',
        'warmup_iters of AFANHook, where only the first steps suffer',
    ]
    if any('not finite' in sign for sign in signs):
        advice.append('under mixed precision, bfloat16 instead of float16')
    return advice
