"""What a run logged of A-FAN, joined from its logs, and what the figures say about the strength of the perturbation.

A site is judged by medians over the later half of its reports: the first steps of a training, and a warm-up, say little. What
decides is the relative gain, ``gain / (objective - gain)``: how much higher the adversarial loss is than the loss of the same tail on
the clean feature, at the same parameters and for the same batch. It depends on no unit, so that it can be compared between sites and hosts.
``delta_norm`` cannot decide, because the norm of the feature is not logged; it is shown, and zero means that nothing was perturbed.

The limits are rules of thumb, not figures of the paper:

===================  ================================================================================================
relative gain < 1 %  too weak. Eq. 6 then adds nearly the clean loss, ``num_strengths`` times: what a larger weight would do too
relative gain >= 1   may hurt. The adversarial loss is at least twice the clean one, so that most of the objective is about
                     features that the network never meets once it is trained
diverging            may hurt. From the first to the last third of at least 6 reports the objective rose by more than 10 %
                     while the clean loss of the same batches fell by more than 10 %: the network pays for one with the other
not finite           may hurt. Directions after the first report were not finite, and their passes counted nothing. The first
                     report is exempt: mixed precision finds its loss scale in it
gain of both signs   cannot tell. More than a quarter of the gains are negative by more than 1 % of the clean loss; an ascent
                     cannot do that, so the passes differ in something else, such as proposals that are sampled anew
zero share > 50 %    a reason for a weak site: most elements have no gradient to follow
mix ratio < 10 %     a reason for a weak site: the normalisation takes away nearly all of the perturbation
===================  ================================================================================================
"""
import json
import math
from statistics import median

from command_line import UsageError

WEAK_GAIN, STRONG_GAIN = 0.01, 1.0
TREND, TREND_REPORTS = 1.1, 6
NEGATIVE_SHARE = 0.25
HIGH_ZERO, LOW_MIX = 0.5, 0.1
AIM = 0.05  # the relative gain that the advice on epsilon aims at: clear of both limits
WEAK, STRONG, UNCLEAR, FINE = 'too weak to matter', 'strong enough to hurt', 'cannot tell', 'neither too weak nor too strong'


def find_logs(path):
    """The ``scalars.json`` files of a work folder, oldest first; of a file, that file."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f'WORK_DIR must be a work folder or a scalars.json, but got {path}')
    # Folders of runs are named by time. A folder of one run, or its vis_data, is fine too.
    found = [*sorted(path.glob('*/vis_data/scalars.json')), *path.glob('vis_data/scalars.json'), *path.glob('scalars.json')]
    if not found:
        raise UsageError(f'no scalars.json in {path}: the run must have a LocalVisBackend, and at least one line logged')
    return found


def read_lines(path):
    """The training lines of one log, by iteration. A last line that a killed run left unfinished is left out."""
    lines = path.read_text().splitlines()
    records = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if 'loss' in record or any(key.startswith('afan/') for key in record):  # not a line of an evaluation
                records[record['step']] = record
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):
                raise UsageError(f'line {number} of {path} is no record of scalars') from error
    return records


def read_run(path):
    """One run: the loss, and the figures of each site.

    Where a run was resumed, what an earlier log holds from the first iteration of a later one on is dropped.

    Returns:
        dict: ``loss``, a dict from iteration to the run's own loss, and ``sites``, a dict from site to a list of reports, each a
        dict from figure to value with ``iter``, ``clean`` and ``relative_gain`` added.
    """
    joined = {}
    for log in find_logs(path):
        lines = read_lines(log)
        joined = {step: line for step, line in joined.items() if not lines or step < min(lines)}
        joined.update(lines)
    sites = {}
    for step, line in sorted(joined.items()):
        for site, figures in _figures(line).items():
            reports = sites.setdefault(site, [])
            # A logger that is faster than AFANHook repeats its last report.
            if not reports or any(reports[-1].get(key) != value for key, value in figures.items()):
                reports.append(dict(figures, iter=step, **_relative(figures)))
    if not sites:
        raise UsageError(f'no A-FAN figures in {path}: a stock run, a run without AFANHook, or one shorter than its interval')
    return dict(loss={step: line['loss'] for step, line in sorted(joined.items()) if 'loss' in line}, sites=sites)


def _figures(line):
    sites = {}
    for key, value in line.items():
        if key.startswith('afan/'):
            site, figure = key[len('afan/'):].rsplit('/', 1)
            sites.setdefault(site, {})[figure] = float(value)
    return {site: figures for site, figures in sites.items() if 'gain' in figures}  # no pass was measured yet


def _relative(figures):
    clean = figures['objective'] - figures['gain']
    return dict(clean=clean, relative_gain=figures['gain'] / clean if clean > 0 else math.nan)


def judge(reports):
    """The verdict on one site.

    Returns:
        dict: ``verdict``, one of WEAK, STRONG, UNCLEAR and FINE; ``medians`` of the figures; ``reasons`` and ``advice``, lists of
        sentences; ``reports``, how many were judged; ``iters``, the first and the last of them.
    """
    judged = reports[len(reports) // 2:]
    medians = {key: _median(judged, key) for key in judged[-1] if key != 'iter'}
    found = dict(verdict=None, medians=medians, reasons=[], advice=[], reports=len(judged), iters=[judged[0]['iter'], judged[-1]['iter']])
    gain = medians['relative_gain']
    negative = sum(r['relative_gain'] < -WEAK_GAIN for r in judged) / len(judged)
    strong = _strong_signs(reports, gain)
    if strong:
        found.update(verdict=STRONG, reasons=strong, advice=_advice_strong(medians))
    elif medians['delta_norm'] == 0:
        found.update(verdict=WEAK, reasons=['the perturbation is zero'], advice=[
            "this is what perturbation='none' and epsilon=0 do; otherwise no loss depends on the site, or no direction was finite"])
    elif not math.isfinite(gain) or negative > NEGATIVE_SHARE:
        found.update(verdict=UNCLEAR, reasons=[f'{negative:.0%} of the gains are negative by more than {WEAK_GAIN:.0%} of the clean loss '
                                               f'(cannot tell above {NEGATIVE_SHARE:.0%})'], advice=[
            'in a two-stage detector reuse_proposals=True gives the adversarial passes the proposals and samples of the clean one; '
            "with perturbation='gaussian', or a step_size above epsilon, a negative gain may be real"])
    elif abs(gain) < WEAK_GAIN:
        found.update(verdict=WEAK, reasons=[f'the gain is below {WEAK_GAIN:.0%} of the clean loss', *_weak_causes(medians)],
                     advice=_advice_weak(medians))
    else:
        found.update(verdict=FINE, reasons=[f'the gain is between {WEAK_GAIN:.0%} and {STRONG_GAIN:.0%} of the clean loss'])
    return found


def _median(reports, key):
    values = [r[key] for r in reports if math.isfinite(r.get(key, math.nan))]
    return median(values) if values else math.nan


def _strong_signs(reports, gain):
    signs = []
    if gain >= STRONG_GAIN:
        signs.append(f'the gain is at least {STRONG_GAIN:.0%} of the clean loss')
    third = len(reports) // 3
    if len(reports) >= TREND_REPORTS:
        change = {key: _median(reports[-third:], key) / _median(reports[:third], key) for key in ('objective', 'clean')}
        if change['objective'] > TREND and change['clean'] < 1 / TREND:
            signs.append(f"the objective rose by {change['objective'] - 1:.0%} while the clean loss fell by {1 - change['clean']:.0%} "
                         f'(more than {TREND - 1:.0%} each is a sign)')
    unfinished = [r for r in reports[1:] if r.get('nonfinite_share', 0) > 0]
    if unfinished:
        worst = max(r['nonfinite_share'] for r in unfinished)
        signs.append(f"up to {worst:.0%} of the directions were not finite, last in the report of iteration {unfinished[-1]['iter']}")
    return signs


def _weak_causes(medians):
    causes = []
    if medians['mix_ratio'] < LOW_MIX:
        causes.append(f"the normalisation leaves {medians['mix_ratio']:.0%} of the perturbation (little: below {LOW_MIX:.0%})")
    if medians['zero_share'] > HIGH_ZERO:
        causes.append(f"{medians['zero_share']:.0%} of the elements are not moved (many: above {HIGH_ZERO:.0%})")
    return causes


def _advice_weak(medians):
    gain, mix = medians['relative_gain'], medians['mix_ratio']
    times = AIM / gain if gain > 0 else math.inf
    if times <= 1000:
        size = f'epsilon {float(f"{times:.1g}"):.0f} times as large (a first-order guess, for a gain of {AIM:.0%})'
    else:
        size = 'epsilon more than 1000 times as large'
    advice = [f"{size}, or epsilon_unit='std' with e.g. epsilon=0.1, a tenth of each channel's standard deviation"]
    if mix < HIGH_ZERO:
        advice.append(f'moments=None, which keeps all of the perturbation instead of {mix:.0%}')
    if medians['zero_share'] > HIGH_ZERO:
        advice.append('a site whose elements all reach the loss, e.g. before a ReLU or a pooling layer')
    return advice


def _advice_strong(medians):
    advice = ['half the epsilon, and again, until the gain is well below the clean loss', 'a smaller adv_weight',
              'warmup_iters in AFANHook, where only the first steps suffer']
    if medians.get('nonfinite_share', 0) > 0:
        advice.append('bfloat16 instead of float16 under mixed precision, or a smaller loss scale')
    return advice
