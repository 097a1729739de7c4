"""A report in words: a Markdown table for each metric."""

import json
import math
from pathlib import Path
from typing import Any, Dict, List, Sequence

from ..utils.files import write, write_json
from .arm_specs import ExperimentError
from .plot import curves, plot, plot_curve


def markdown(results: Dict[str, Any]) -> str:
    """The report of :func:`~.results.collect`'s results."""
    lines = [f'# {results["experiment"]}', '', about(results), '']
    for name, metric in results['metrics'].items():
        primary = ' (primary)' if name == results['primary'] else ''
        lines += [f'## {name}{primary}', '', *arm_table(results, metric), '']
        if metric['comparisons']:
            lines += [*comparison_table(metric), '']
    if not results['metrics']:
        lines += ['No run is stored yet.', '']
    return '\n'.join(lines)


def about(results: Dict[str, Any]) -> str:
    """What the tables hold, and what is missing or amiss."""
    seeds, images = ', '.join(map(str, results['seeds'])), ' and '.join(results['images'])
    text = [
        f'Seeds {seeds}; measured on {images}.',
        'Differences are paired by seed. A verdict is that of the paired t-test after '
        "Holm's correction over the arms (p < 0.05, at least five seeds); anything else is 'not "
        "shown'. 'Detectable' is the true difference that one such test finds with probability "
        '0.8 for this many seeds and this spread.',
    ]
    if results['one_run']:
        groups = '; '.join(', '.join(group) for group in results['one_run'])
        text.append(
            f'One run: {groups}. They are of one config, have the same figures, and count once in '
            "Holm's correction."
        )
    if results['missing']:
        text.append(f'**Missing runs:** {", ".join(results["missing"])}.')
    if results['not_finite']:
        text.append(f'**Not finite:** {", ".join(results["not_finite"])}.')
    if results['unpaired']:
        text.append(f'**Not paired:** {"; ".join(results["unpaired"])}.')
    if results['timed_otherwise']:
        text.append(
            f'**Not run alike:** {"; ".join(results["timed_otherwise"])}. Such times are not '
            'compared: on a CPU the clock is that of the cores, and that of the wall where workers '
            'load the data. Figures differ there by the number of threads as by a seed.'
        )
    if results['resumed']:
        text.append(about_interruptions(results))
    return '\n\n'.join(text)


def about_interruptions(results: Dict[str, Any]) -> str:
    """What is other in runs that were interrupted: their figures, and why there is no time and
    memory of them.
    """
    text = (
        'Time and memory are of runs that were not interrupted, which these were: '
        f'{", ".join(results["resumed"])}. Where a model draws random numbers, as for dropout, '
        'these runs drew others from the interruption on, and figures differ from those of a '
        'whole run as by a seed.'
    )
    none = [arm for arm, runs in results['training'].items() if runs and arm not in results['cost']]
    if 'stock' in results['arms'] and none:
        text += f' Without any beside one of stock: {", ".join(none)}.'
    return text


def arm_table(results: Dict[str, Any], metric: Dict[str, Any]) -> List[str]:
    """Mean and spread of each arm, each seed, and its cost relative to stock."""
    seeds = list(results['seeds'])
    head = ['arm', 'mean', 'sd', '95 % interval', *(f'seed {s}' for s in seeds), 'time', 'memory']
    rows = []
    for arm, values in metric['values'].items():
        each = metric['summary'].get(arm)
        cost = results['cost'].get(arm, {})
        rows.append(
            [
                label(results['arms'], arm),
                *(
                    ['–'] * 3
                    if each is None
                    else [number(each['mean']), number(each['sd']), interval(each)]
                ),
                *(number(values.get(seed, math.nan)) for seed in seeds),
                ratio(cost.get('time')),
                ratio(cost.get('memory')),
            ]
        )
    return table(head, rows)


def comparison_table(metric: Dict[str, Any]) -> List[str]:
    """Each arm against each reference."""
    head = [
        'arm − reference',
        'seeds',
        'difference',
        '95 % interval',
        'p (t)',
        'p (Holm)',
        'p (sign flips)',
        'detectable',
        'verdict',
    ]
    rows = [
        [
            f'{c["arm"]} − {c["reference"]}',
            str(len(c['seeds'])),
            number(c['mean'], sign=True),
            interval(dict(low=c['interval'][0], high=c['interval'][1]), sign=True),
            p_value(c['p_t']),
            p_value(c['p_holm']),
            p_value(c['p_flip']),
            number(c['detectable']),
            c['verdict'] if c['verdict'] == 'not shown' else f'**{c["verdict"]}**',
        ]
        for c in metric['comparisons']
    ]
    return table(head, rows)


def label(arms: Dict[str, Any], name: str) -> str:
    """An arm's name, with what it is a reference of."""
    about = arms[name]
    extra = [] if about['of'] is None else [f'of {about["of"]}']
    if about['factor'] is not None:
        extra.append(f'× {about["factor"]:g}')
    return f'{name} ({", ".join(extra)})' if extra else name


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> List[str]:
    """A Markdown table, its first column to the left, the others to the right."""
    lines = [head, ['---', *['---:'] * (len(head) - 1)], *rows]
    return [f'| {" | ".join(line)} |' for line in lines]


def number(value: float, sign: bool = False) -> str:
    """Four significant digits, and what is very small as zero."""
    if math.isnan(value):
        return '–'
    return f'{value:{"+" if sign else ""}.4g}'


def interval(each: Dict[str, float], sign: bool = False) -> str:
    if math.isnan(each['low']):
        return '–'
    return f'{number(each["low"], sign)} … {number(each["high"], sign)}'


def ratio(value: Any) -> str:
    return '–' if value is None else f'{value:.2f}×'


def p_value(value: float) -> str:
    if math.isnan(value):
        return '–'
    return '< 0.001' if value < 0.001 else f'{value:.3f}'


def write_report(results: Dict[str, Any], folder: Path) -> str:
    """Write ``report.md``, ``.json`` and ``.png`` to the store, ``report_curve.png`` where there
    are curves of the primary metric; of another half than the report's under its name.

    Returns:
        The Markdown.
    """
    stem = 'report' if results['half'] == 'report' else f'report_{results["half"]}'
    text = markdown(results)
    write_json(folder / f'{stem}.json', results)
    write(folder / f'{stem}.md', text)
    if results['metrics']:
        plot(results, str(folder / f'{stem}.png'))
    if curves(results):
        plot_curve(results, str(folder / f'{stem}_curve.png'))
    return text


def read_report(path: str) -> Dict[str, Any]:
    """What :func:`write_report` has written as JSON.

    Raises:
        ExperimentError: If it is no such file.
    """
    try:
        results = json.loads(Path(path).read_text())
        if 'metrics' in results:
            return results
    except (OSError, ValueError, TypeError):
        pass
    raise ExperimentError(f'report must be the report.json of an experiment, but got {path}')
