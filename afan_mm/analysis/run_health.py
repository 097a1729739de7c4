"""What the figures of a run say about the strength of its perturbations.

A site is judged by medians over the later half of its reports: the first steps of a training, and a
warm-up, say little. What decides is the relative gain, ``gain / (objective - gain)``: how much
higher the adversarial loss is than the loss of the same tail on the clean feature, at the same
parameters and for the same batch. It has no unit and compares across sites and models.
``relative_norm``, the size of the perturbation, cannot decide: the same share of a feature's norm
acts very differently in different places. It says which way to go: a gain grows with epsilon only
as long as the feature is moved by little; one step far beyond that overshoots, and its gain can
fall to nothing. Where it was not logged, the advice names both ways.

The limits are rules of thumb, not figures of the paper:

===================  ===============================================================================
relative gain < 1 %  too weak. Eq. 6 then adds nearly the clean loss, ``num_strengths`` times: what
                     a larger weight would do too
relative gain >= 1   may hurt. The adversarial loss is at least twice the clean one, so that most of
                     the objective is about features that the network never meets once it is
                     trained. Not where the gain is below the clean loss of the first report: on few
                     images the clean loss falls to nearly nothing, and its share says little
diverging            may hurt. From the first to the last third of at least 6 reports the objective
                     rose by more than 10 % while the clean loss of the same batches fell by more
                     than 10 %: the network pays for one with the other
not finite           may hurt. Adversarial losses were not finite; or directions after the first
                     report, whose passes then count nothing. The first report is exempt: mixed
                     precision finds its loss scale in it
no clean loss        cannot tell. With ``objective='consistency'`` it is zero, and a gain no share
                     of it
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
from .run_advice import ASIDE, HIGH_ZERO, LOW_MIX, advice_strong, advice_weak, percent, weak_causes
from .run_logs import Report, read_run

WEAK_GAIN, STRONG_GAIN = 0.01, 1.0
TREND, TREND_REPORTS = 0.1, 6
NEGATIVE_SHARE = 0.25
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
        lines += [
            f'  {site}: {verdict["verdict"].upper()}',
            f'    medians of {verdict["reports"]} reports, iterations {verdict["iters"][0]} to '
            f'{verdict["iters"][1]}:',
            _gained(medians),
            *_moved(medians),
            f'      mix ratio {medians["mix_ratio"]:.2f} (low below {LOW_MIX}), zero share '
            f'{medians["zero_share"]:.0%} (high above {HIGH_ZERO:.0%}), delta norm '
            f'{medians["delta_norm"]:.3g}, not finite {medians["nonfinite_share"]:.0%}',
        ]
        lines += [f'    because: {reason}' for reason in verdict['reasons']]
        lines += [f'    change: {advice}' for advice in verdict['advice']]
    if any(verdict['medians']['delta_norm'] for verdict in found['verdicts'].values()):
        lines.append(f'  {ASIDE}')  # on no control
    return '\n'.join(lines)


def _gained(medians: Report) -> str:
    """The gain; beside a clean loss that is above zero the median share, whose sign need not be
    that of the median gain.
    """
    relative, clean = medians['relative_gain'], medians['clean']
    if not math.isfinite(relative):
        return f'      gain {medians["gain"]:.2g}, clean loss {clean:.3g}'
    return (
        f'      gain {relative * clean:.2g} = {percent(relative)} of the clean loss {clean:.3g} '
        f'(weak below {WEAK_GAIN:.0%}, strong from {STRONG_GAIN:.0%})'
    )


def _moved(medians: Report) -> List[str]:
    """The size of the perturbation; older logs have it not."""
    size = medians.get('relative_norm', math.nan)
    text = f'      perturbation {percent(size)} of the norm of the feature (10% in the study)'
    return [text] if math.isfinite(size) else []


def _decide(
    reports: List[Report], judged: List[Report], medians: Report
) -> Tuple[str, List[str], List[str]]:
    """Verdict, reasons and advice."""
    gain = medians['relative_gain']
    negative = sum(report['relative_gain'] < -WEAK_GAIN for report in judged) / len(judged)
    strong = _strong_signs(reports, judged, medians)
    if strong:
        return STRONG, strong, advice_strong(strong)
    if medians['delta_norm'] == 0:
        return (
            WEAK,
            ['the perturbation is zero'],
            [
                "nothing if perturbation='none' or epsilon=0 is meant; otherwise the site, as no "
                'loss depends on what is perturbed'
            ],
        )
    if not math.isfinite(gain):
        return (
            UNCLEAR,
            [f'the clean loss of the tail is {medians["clean"]:.3g}, of which a gain is no share'],
            [
                "nothing with objective='consistency', whose passes start from no divergence; "
                'compare with a control on validation data'
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
            [f'the gain is below {WEAK_GAIN:.0%} of the clean loss', *weak_causes(medians)],
            advice_weak(medians),
        )
    if gain >= STRONG_GAIN:
        reason = (
            f'the gain is above the clean loss, which is small by now, but below the clean loss of '
            f'the first report, {reports[0]["clean"]:.3g}'
        )
    else:
        reason = f'the gain is between {WEAK_GAIN:.0%} and {STRONG_GAIN:.0%} of the clean loss'
    return FINE, [reason], []


def _median(reports: List[Report], key: str) -> float:
    values = [report[key] for report in reports if math.isfinite(report.get(key, math.nan))]
    return median(values) if values else math.nan


def _change(first: float, last: float) -> float:
    """Relative; of a loss that is not above zero none."""
    return last / first - 1 if first > 0 else math.nan


def _strong_signs(reports: List[Report], judged: List[Report], medians: Report) -> List[str]:
    signs = []
    small = medians['gain'] < STRONG_GAIN * reports[0]['clean']
    if medians['relative_gain'] >= STRONG_GAIN and not small:
        signs.append(
            f'the gain is at least {STRONG_GAIN:.0%} of the clean loss, also of that of the first '
            'report'
        )
    if len(reports) >= TREND_REPORTS:
        third = len(reports) // 3
        objective, clean = (
            _change(_median(reports[:third], key), _median(reports[-third:], key))
            for key in ('objective', 'clean')
        )
        if objective > TREND and clean < -TREND:
            signs.append(
                f'the objective rose by {objective:.0%} while the clean loss fell by {-clean:.0%} '
                f'(the limit is {TREND:.0%} each)'
            )
    infinite = sum(not math.isfinite(report['clean']) for report in judged)
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
