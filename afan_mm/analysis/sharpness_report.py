"""Sharpness in feature space as a table and as a picture."""

from io import StringIO
from typing import Any, Dict, Iterator, Tuple

import numpy as np
from rich.console import Console
from rich.table import Table

from ..settings import UNIT_TEXTS
from ..visualization.canvas import new_figure, render
from .sharpness import QUANTILES

Results = Dict[str, Dict[str, Dict[str, Any]]]
KINDS = dict(adversarial='adversarial direction', random='random directions')


def sharpness_table(results: Results) -> str:
    """One line for each site and model: the clean loss, and its rise at full strength.

    Args:
        results: Of :func:`~afan_mm.analysis.sharpness.measure_sharpness`, by model.
    """
    low, _, high = (f'{q:.0%}' for q in QUANTILES)
    table = Table('site', 'model', title=f'rise of the loss at full strength: mean ({low}, {high})')
    for column in ('epsilon', 'clean loss', *KINDS.values(), 'images'):
        table.add_column(column, justify='right')
    for site, model, found in _rows(results):
        cells = []
        for kind in KINDS:
            ends = [found[kind]['quantiles'][str(q)][-1] for q in (QUANTILES[0], QUANTILES[-1])]
            cells.append(f'{found[kind]["mean"][-1]:+.4g} ({ends[0]:+.3g}, {ends[1]:+.3g})')
        out = f' ({found["left_out"]} left out)' if found['left_out'] else ''
        table.add_row(
            site, model, _epsilon(found), f'{found["clean"]:.4g}', *cells, f'{found["images"]}{out}'
        )
    console = Console(file=StringIO(), width=160)
    console.print(table)
    return console.file.getvalue().rstrip()


def _rows(results: Results) -> Iterator[Tuple[str, str, Dict[str, Any]]]:
    sites = list(dict.fromkeys(site for found in results.values() for site in found))
    for site in sites:
        for model, found in results.items():
            if site in found:
                yield site, model, found[site]


def _epsilon(found: Dict[str, Any]) -> str:
    return f'{found["epsilon"]:.3g}{UNIT_TEXTS[found["unit"]]} ({found["norm"]})'


def draw_sharpness(results: Results) -> np.ndarray:
    """A column for each site: above along the adversarial direction, below along random ones; a
    colour for each model, the mean as a line and the quantiles as a band.

    Args:
        results: Of :func:`~afan_mm.analysis.sharpness.measure_sharpness`, by model.

    Returns:
        (H, W, 3) RGB in uint8.
    """
    sites = list(dict.fromkeys(site for found in results.values() for site in found))
    figure = new_figure(400 * len(sites) + 60, 660)
    grid = figure.subplots(2, len(sites), squeeze=False, sharex='col')
    for number, model in enumerate(results):
        for column, site in enumerate(sites):
            if site in results[model]:
                for axes, kind in zip(grid[:, column], KINDS):
                    _curve(axes, results[model][site], kind, model, f'C{number}')
    for column, site in enumerate(sites):
        found = next(found[site] for found in results.values() if site in found)
        grid[0, column].set_title(f'site {site}', fontsize=10)
        grid[1, column].set_xlabel(_x_label(found), fontsize=8)
        for axes, kind in zip(grid[:, column], KINDS.values()):
            axes.set_ylabel(f'rise of the loss, {kind}', fontsize=8)
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=8)
            axes.axhline(0, color='gray', linewidth=0.8)
    grid[0, 0].legend(fontsize=8, loc='upper left')
    low, _, high = (f'{q:.0%}' for q in QUANTILES)
    figure.suptitle(f'lines: mean over images; bands: {low} to {high} of the images', fontsize=9)
    figure.tight_layout()
    return render(figure)


def _curve(axes: Any, found: Dict[str, Any], kind: str, model: str, colour: str) -> None:
    x = [0.0, *(found['epsilon'] * s for s in found['strengths'])]
    label = f'{model} (clean loss {found["clean"]:.3g}, {found["images"]} images)'
    axes.plot(x, [0.0, *found[kind]['mean']], color=colour, marker='.', label=label)
    ends = [[0.0, *found[kind]['quantiles'][str(q)]] for q in (QUANTILES[0], QUANTILES[-1])]
    axes.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)


def _x_label(found: Dict[str, Any]) -> str:
    size = dict(
        absolute="in the feature's own units",
        std='in standard deviations of each channel',
        norm='in l2 norms of the clean feature',
        pixel='in shares of the range of the pixels',
    )[found['unit']]
    return f'strength ({found["norm"]}), {size}'
