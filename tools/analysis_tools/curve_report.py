"""The figures of a robustness curve as a table and as a picture."""
from collections import defaultdict

import matplotlib
import numpy as np

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')  # told apart by the colour-blind, too


def figures(entries, metric=None):
    """The values of one metric: its name, and for each label the clean values and the robust ones by epsilon.

    Raises:
        KeyError: With the metrics there are, if the one asked for is not among them.
    """
    names = sorted(set.intersection(*(set(entry['robust']) for entry in entries)))
    if metric is None:
        metric = next((name for name in names if name.endswith(('mIoU', 'mAP'))), names[0] if names else None)
    if metric not in names:
        raise KeyError(names)
    curves = defaultdict(lambda: dict(clean=[], robust=defaultdict(list)))
    for entry in entries:
        curve = curves[entry['label']]
        curve['robust'][entry['epsilon']].append(entry['robust'][metric])
        if entry['epsilon'] == entries[0]['epsilon']:  # once for each checkpoint
            curve['clean'].append(entry['clean'][metric])
    return metric, curves


def spread(values):
    """'mean', or 'mean ± standard deviation' of several seeds (n - 1)."""
    if len(values) == 1:
        return f'{values[0]:.4g}'
    return f'{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}'


def table(metric, curves, attack, num_images):
    """Markdown: a row for each label, a column for each strength."""
    epsilons = sorted({epsilon for curve in curves.values() for epsilon in curve['robust']})
    rows = [['', 'seeds', 'clean', *(f'{epsilon:g}/255' for epsilon in epsilons)]]
    for label, curve in curves.items():
        rows.append([label, str(len(curve['clean'])), spread(curve['clean']), *(spread(curve['robust'][e]) for e in epsilons)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ['| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |' for row in rows]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    return '\n'.join([f'{metric} on {num_images} images, clean and under {attack.upper()}-10 of growing epsilon', '', *lines])


def plot(metric, curves, attack, path):
    """A line for each label, with a band of one standard deviation where there are several seeds."""
    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    for (label, curve), colour in zip(curves.items(), COLOURS * len(curves)):
        epsilons = sorted(curve['robust'])
        mean = np.array([np.mean(curve['robust'][e]) for e in epsilons])
        axes.plot(epsilons, mean, 'o-', color=colour)
        if len(curve['clean']) > 1:
            std = np.array([np.std(curve['robust'][e], ddof=1) for e in epsilons])
            axes.fill_between(epsilons, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        axes.annotate(label, (epsilons[0], mean[0]), textcoords='offset points', xytext=(6, 6 if colour == COLOURS[0] else -12),
                      color=colour)
    axes.set(xlabel='epsilon of the attack, in 1/255', ylabel=metric, ylim=(0, None), title=f'{attack.upper()}-10 on the pixels')
    axes.spines[['top', 'right']].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
