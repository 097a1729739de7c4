"""Curvature as a table and as a picture."""

from io import StringIO
from typing import Any, Dict, List

import numpy as np
from rich.console import Console
from rich.table import Table

from ..visualization.canvas import new_figure, render
from .spectrum import smooth_density

FLOOR = 1e-8  # of a density, below which nothing is drawn


def curvature_table(results: Dict[str, Dict[str, Any]]) -> str:
    """One line for each model: spectral norm and trace, each with its error, and the products.

    Args:
        results: Of :func:`~afan_mm.analysis.curvature.measure_curvature`, by name.
    """
    table = Table('model', title='Hessian of the training loss')
    columns = ('loss', 'spectral norm', 'trace', 'estimator', 'products')
    for column in columns:
        table.add_column(column, justify='right')
    for name, result in results.items():
        cells = ['-', '-', '-']
        if 'eigenvalues' in result:
            first = result['eigenvalues'][0]
            cells[0] = f'{abs(first["value"]):.4g} ± {first["error"]:.1g}'
        if 'trace' in result:
            trace = result['trace'][0]
            cells[1] = f'{trace["value"]:.4g} ± {trace["error"]:.1g}'
            cells[2] = f'{trace["method"]}, {trace["probes"]} probes'
        products = str(sum(result['products'].values()))
        table.add_row(name, f'{result["loss"]:.4g}', *cells, products)
    console = Console(file=StringIO(), width=120)
    console.print(table)
    return console.file.getvalue().rstrip()


def curvature_notes(result: Dict[str, Any]) -> List[str]:
    """What the figures of one model rest on and leave out, a sentence each."""
    about = result['parameters']
    notes = [
        f'{about["counted"]:,} weights, {result["images"]} images in {result["batches"]} batches'
    ]
    if about['before']:
        notes.append(
            f'TAIL ONLY: {about["left_out"]:,} weights are left out. The loss reads '
            f'{len(about["before"])} tensors through {", ".join(about["operators"])}, which has no '
            f'second derivative ({", ".join(about["before"][:2])}, ...): the figures are of the '
            'block of the other weights, and say nothing of these'
        )
    if about['unused']:
        notes.append(
            f'{len(about["unused"])} tensors that the loss does not read are left out '
            f'({", ".join(about["unused"][:2])}, ...)'
        )
    if 'eigenvalues' in result:
        pairs = (f'{e["value"]:.4g} ± {e["error"]:.1g}' for e in result['eigenvalues'])
        notes.append(f'largest eigenvalues in magnitude: {", ".join(pairs)}')
    for trace in result.get('trace', ()):
        notes.append(
            f'trace by {trace["method"]}: {trace["value"]:.5g} ± {trace["error"]:.2g} '
            f'(standard error of {trace["probes"]} probes)'
        )
    products = ', '.join(f'{stage} {count}' for stage, count in result['products'].items())
    notes.append(f'Hessian-vector products: {products}')
    return notes


def draw_density(results: Dict[str, Dict[str, Any]], width: float = 0.0) -> np.ndarray:
    """The spectral densities of several models on common axes, the density on a logarithmic one.

    Args:
        results: Of :func:`~afan_mm.analysis.curvature.measure_curvature` with a density, by name.
        width: Standard deviation of the bell that each node becomes. Defaults to 0, a hundredth of
            the range of all nodes.

    Returns:
        (H, W, 3) RGB in uint8.
    """
    quadratures = {
        name: [(np.array(each['nodes']), np.array(each['weights'])) for each in result['density']]
        for name, result in results.items()
    }
    nodes = np.concatenate([n for found in quadratures.values() for n, _ in found])
    width = width or 0.01 * float(np.ptp(nodes)) or 1.0
    grid = np.linspace(nodes.min() - 5 * width, nodes.max() + 5 * width, 1000)
    figure = new_figure(760, 460)
    axes = figure.subplots()
    for name, found in quadratures.items():
        axes.semilogy(grid, np.maximum(smooth_density(found, grid, width), FLOOR), label=name)
    axes.set_xlabel('eigenvalue of the Hessian (loss per squared weight)')
    axes.set_ylabel('density (share of the eigenvalues per unit)')
    axes.set_ylim(bottom=FLOOR)
    axes.grid(alpha=0.3)
    axes.legend()
    counts = {len(found) for found in quadratures.values()}
    axes.set_title(
        f'Lanczos quadrature, {"/".join(map(str, sorted(counts)))} probes of '
        f'{max(len(n) for found in quadratures.values() for n, _ in found)} nodes, '
        f'each a bell of width {width:.2g}',
        fontsize=9,
    )
    figure.tight_layout()
    return render(figure)
