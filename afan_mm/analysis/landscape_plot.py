"""Pictures of a loss landscape."""

from typing import Any, Dict, Optional, Tuple

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize

from ..visualization.canvas import new_figure, render

PANEL = 380  # pixels
UNIT = "in units of each filter's norm"


def draw_curves(result: Dict[str, Any], log: bool = False) -> np.ndarray:
    """A landscape along one direction: a curve for each checkpoint on common axes.

    Args:
        result: Of :func:`~afan_mm.analysis.landscape.measure_landscape` with one axis, or of
            :func:`~afan_mm.analysis.landscape.measure_line`.
        log: Whether the axis of the loss is logarithmic. Defaults to False.

    Returns:
        (H, W, 3) RGB in uint8.
    """
    figure = new_figure(700, 460)
    axes = figure.subplots()
    about = result['about']
    for name, values in _common(result, log)[0].items():
        axes.plot(result['axes'][0], values, marker='.', label=name)
    if about['kind'] == 'line':
        axes.set_xlabel(f'weights: 0 is {about["start"]}, 1 is {about["end"]}')
        for end in (0, 1):
            axes.axvline(end, color='gray', linewidth=0.8, linestyle=':')
    else:
        axes.set_xlabel(f'step along a random direction, {UNIT}')
    axes.set_ylabel(f'loss, mean of {about["images"]} images')
    axes.set_yscale('log' if log else 'linear')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    return render(figure)


def draw_contours(result: Dict[str, Any], log: bool = False) -> np.ndarray:
    """A landscape over a plane: a panel of contours for each checkpoint, all on one colour scale.

    Args:
        result: Of :func:`~afan_mm.analysis.landscape.measure_landscape` with two axes.
        log: Whether the colours and levels are logarithmic. Defaults to False.

    Returns:
        (H, W, 3) RGB in uint8.
    """
    surfaces, norm, levels = _common(result, log)
    figure = new_figure(PANEL * len(surfaces) + 120, PANEL + 60)
    panels = figure.subplots(1, len(surfaces), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, values) in zip(panels, surfaces.items()):
        # the first axis of the numbers is the x axis
        shown = axes.contourf(*result['axes'], values.T, levels, norm=norm, cmap='viridis')
        lines = axes.contour(
            *result['axes'], values.T, levels[::2], norm=norm, colors='black', linewidths=0.5
        )
        axes.clabel(lines, fontsize=6, fmt='%.3g')
        axes.plot(0, 0, 'r+')
        axes.set_title(f'{name}: {_summary(result, values)}', fontsize=9)
        axes.set_xlabel('first random direction')
        axes.set_aspect('equal')
    panels[0].set_ylabel('second random direction')
    figure.suptitle(f'steps {UNIT}', fontsize=9)
    bar = figure.colorbar(shown, ax=list(panels))
    bar.set_label(f'loss, mean of {result["about"]["images"]} images')
    return render(figure)


def draw_surface(result: Dict[str, Any], log: bool = False) -> np.ndarray:
    """The same as :func:`draw_contours` as surfaces in three dimensions on common axes."""
    surfaces, norm, levels = _common(result, log)
    figure = new_figure((PANEL + 60) * len(surfaces) + 60, PANEL + 80)
    x, y = np.meshgrid(*result['axes'], indexing='ij')
    low, high = float(levels[0]), float(levels[-1])
    for column, (name, values) in enumerate(surfaces.items(), 1):
        axes = figure.add_subplot(1, len(surfaces), column, projection='3d')
        height = np.log10(values) if log else values
        axes.plot_surface(
            x, y, height, facecolors=_colours(values, norm), rstride=1, cstride=1, shade=False
        )
        axes.set_zlim(*(np.log10([low, high]) if log else (low, high)))
        axes.set_title(f'{name}: {_summary(result, values)}', fontsize=9)
        axes.set_xlabel('first direction', fontsize=8)
        axes.set_ylabel('second direction', fontsize=8)
        axes.set_zlabel('log10 of the loss' if log else 'loss', fontsize=8)
        axes.tick_params(labelsize=7)
    count = result['about']['images']
    figure.suptitle(
        f'loss, mean of {count} images, over two random directions; steps {UNIT}', fontsize=9
    )
    figure.subplots_adjust(left=0.02, right=0.95, bottom=0.06, top=0.9, wspace=0.15)
    return render(figure)


def _common(
    result: Dict[str, Any], log: bool
) -> Tuple[Dict[str, np.ndarray], Normalize, np.ndarray]:
    """The losses, and one scale for all."""
    surfaces = {name: np.array(v, dtype=float) for name, v in result['losses'].items()}
    every = np.concatenate([values[np.isfinite(values)] for values in surfaces.values()])
    if len(every) == 0:
        raise ValueError('losses must hold a finite number, but none is')
    low, high = float(every.min()), float(every.max())
    if log and low <= 0:
        raise ValueError(f'log needs losses > 0, but the least is {low:g}')
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-3
    levels = np.geomspace(low, high, 25) if log else np.linspace(low, high, 25)
    return surfaces, (LogNorm if log else Normalize)(low, high), levels


def _colours(values: np.ndarray, norm: Normalize) -> np.ndarray:
    return colormaps['viridis'](norm(values))


def _summary(result: Dict[str, Any], values: np.ndarray) -> str:
    """The loss nearest the checkpoint itself, which is what panels are compared by."""
    nearest = tuple(int(np.argmin(np.abs(axis))) for axis in result['axes'])
    centre: Optional[float] = values[nearest]
    missing = int((~np.isfinite(values)).sum())
    return f'{centre:.3g} at the centre' + (f', {missing} points not finite' if missing else '')
