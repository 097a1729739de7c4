"""The picture of a run's health: a column for each run, a row for each quantity."""

import math
from typing import Any, Dict, List, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..visualization.canvas import new_figure, render
from .run_health import (
    FINE,
    HIGH_ZERO,
    LOW_MIX,
    STRONG,
    STRONG_GAIN,
    UNCLEAR,
    WEAK,
    WEAK_GAIN,
    percent,
)

# Okabe and Ito's palette: told apart by colour-blind readers too. Its yellow is too light for a
# line.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
MARKERS = 'osD^vP'
ZONES = {WEAK: '#dddddd', STRONG: '#f8d9c8'}
GAIN_TICKS = (-10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10, 100, 1000)
LINEAR_GAIN = 0.001  # up to here the axis is linear, beyond it logarithmic
SHORT = {WEAK: 'TOO WEAK', STRONG: 'MAY HURT', UNCLEAR: 'CANNOT TELL', FINE: 'in between'}
LINE, PANELS = 22, 1100  # pixels
Run = Dict[str, Any]
Styles = Dict[str, Dict[str, str]]
HEIGHTS = (3, 2.6, 1.5, 1.5, 1.5)


def draw(runs: Dict[str, Run]) -> np.ndarray:
    """The picture, (H, W, 3) RGB in uint8.

    Args:
        runs: Of :func:`~afan_mm.analysis.run_health.judged_run`, by name.
    """
    names = list(dict.fromkeys(site for run in runs.values() for site in run['sites']))
    styles = {
        name: dict(color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)])
        for i, name in enumerate(names)
    }
    above = LINE * (3 + max(len(run['sites']) for run in runs.values()))
    width, height = max(900, 640 * len(runs)), above + PANELS
    figure = new_figure(width, height)
    axes = figure.subplots(
        len(HEIGHTS),
        len(runs),
        sharex='col',
        sharey='row',
        squeeze=False,
        gridspec_kw=dict(height_ratios=HEIGHTS),
    )
    figure.subplots_adjust(
        left=80 / width,
        right=1 - 150 / width,
        top=1 - above / height,
        bottom=50 / height,
        hspace=0.25,
        wspace=0.45,
    )
    for (name, run), column in zip(runs.items(), axes.T):
        for panel, axis in zip((_gain, _losses, _mix_ratio, _delta_norm, _zero_share), column):
            panel(axis, run, styles)
            axis.grid(alpha=0.3)
            axis.spines[['top', 'right']].set_visible(False)
        column[-1].set_xlabel('iteration')
        column[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _write_verdicts(column[0], name, run, styles)
    gains = _values(runs, ('relative_gain',))
    low, high = min([*gains, -LINEAR_GAIN]), max([*gains, 2 * STRONG_GAIN])
    axes[0, 0].set_ylim(2 * low, 2 * high)
    _scale(axes[1, 0], _values(runs, ('objective', 'clean')))
    _scale(axes[3, 0], _values(runs, ('delta_norm',)))
    for axis in axes.flat:
        _spread_labels(axis)
    return render(figure)


def _write_verdicts(axis: Axes, name: str, run: Run, styles: Styles) -> None:
    """Above the first panel: which run, and a line for each site."""
    lines = [(name, dict(color='black', weight='bold', size=12))]
    for site, found in run['verdicts'].items():
        gain = found['medians']['relative_gain']
        side = 'above' if gain >= 0 else 'below'
        lines.append(
            (
                f'{site}: {SHORT[found["verdict"]]}, adversarial loss {percent(abs(gain))} {side} '
                'the clean one',
                dict(color=styles[site]['color'], size=11),
            )
        )
    for number, (text, style) in enumerate(reversed(lines)):
        place = (0, 0.72 * LINE * (number + 1.4))
        axis.annotate(
            text,
            (0, 1),
            xycoords='axes fraction',
            xytext=place,
            textcoords='offset points',
            **style,
        )


def _gain(axis: Axes, run: Run, styles: Styles) -> None:
    _title(axis, 'gain: adversarial loss above the clean one')
    axis.set_yscale('symlog', linthresh=LINEAR_GAIN)
    axis.axhspan(-WEAK_GAIN, WEAK_GAIN, color=ZONES[WEAK], zorder=0)
    axis.axhspan(STRONG_GAIN, 1e6, color=ZONES[STRONG], zorder=0)
    _lines(axis, run, styles, 'relative_gain')
    axis.set_yticks(GAIN_TICKS)
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{100 * value:g}%'))
    for text, height in (('too weak', WEAK_GAIN / 2), ('may hurt', 2 * STRONG_GAIN)):
        axis.annotate(
            text,
            (0.01, height),
            xycoords=('axes fraction', 'data'),
            color='#555555',
            style='italic',
            va='center',
        )


def _losses(axis: Axes, run: Run, styles: Styles) -> None:
    _title(axis, 'losses: adversarial (solid), clean of the same tail (dashed)')
    axis.plot(list(run['loss']), list(run['loss'].values()), color='black', linewidth=2)
    if run['loss']:
        _label(axis, list(run['loss'].values())[-1], "the run's loss", 'black')
    _lines(axis, run, styles, 'clean', label=False, linestyle='--', alpha=0.6)
    _lines(axis, run, styles, 'objective')


def _mix_ratio(axis: Axes, run: Run, styles: Styles) -> None:
    _title(axis, 'mix ratio: share of the perturbation that the normalisation leaves')
    axis.axhspan(0, LOW_MIX, color=ZONES[WEAK], zorder=0)
    _lines(axis, run, styles, 'mix_ratio')
    axis.set_ylim(0, max(1.05, axis.get_ylim()[1]))


def _delta_norm(axis: Axes, run: Run, styles: Styles) -> None:
    _title(axis, 'delta norm: l2 norm of the perturbation at full strength')
    _lines(axis, run, styles, 'delta_norm')


def _zero_share(axis: Axes, run: Run, styles: Styles) -> None:
    _title(axis, 'zero share: elements that the perturbation does not move')
    axis.axhspan(HIGH_ZERO, 1.05, color=ZONES[WEAK], zorder=0)
    _lines(axis, run, styles, 'zero_share')
    axis.set_ylim(-0.05, 1.05)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:.0%}'))


def _values(runs: Dict[str, Run], figures: Sequence[str]) -> List[float]:
    """All finite values of some figures. The panels of a row share their axis."""
    reports = [
        report for run in runs.values() for reports in run['sites'].values() for report in reports
    ]
    return [
        report[figure] for report in reports for figure in figures if math.isfinite(report[figure])
    ]


def _scale(axis: Axes, values: List[float]) -> None:
    """Logarithmic where one line would flatten the others."""
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axis.set_yscale('log')
    else:
        axis.set_ylim(bottom=0)


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=10, loc='left')


def _lines(
    axis: Axes, run: Run, styles: Styles, figure: str, label: bool = True, **changes: Any
) -> None:
    """A line for each site, its name at the right end."""
    for site, reports in run['sites'].items():
        points = [
            (report['iter'], report[figure]) for report in reports if math.isfinite(report[figure])
        ]
        if points:
            axis.plot(*zip(*points), **dict(styles[site], markersize=4, **changes))
            if label:
                _label(axis, points[-1][1], site, styles[site]['color'])


def _label(axis: Axes, height: float, text: str, colour: str) -> None:
    axis.annotate(
        text,
        (1.01, height),
        xycoords=('axes fraction', 'data'),
        xytext=(0, 0),
        textcoords='offset points',
        color=colour,
        va='center',
        fontsize=9,
        gid='label',
        annotation_clip=False,
    )


def _spread_labels(axis: Axes, gap: float = 14) -> None:
    """Move labels apart that would lie on each other; ``gap`` in pixels."""
    labels = [text for text in axis.texts if text.get_gid() == 'label']
    places = [axis.transData.transform((0, text.xy[1]))[1] for text in labels]
    order = sorted(range(len(labels)), key=places.__getitem__)
    heights = list(places)
    for _ in range(50):
        for low, high in zip(order, order[1:]):
            overlap = gap - (heights[high] - heights[low])
            if overlap > 0:
                heights[low] -= overlap / 2
                heights[high] += overlap / 2
    for text, height, place in zip(labels, heights, places):
        text.set_position((0, (height - place) * 72 / axis.figure.dpi))
