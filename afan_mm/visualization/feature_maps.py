"""The picture of a site: clean, augmented and normalised features, as in the paper's Figures 7 to
9.
"""

from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from mmengine.visualization import Visualizer
from torch import Tensor

from .canvas import new_figure, render
from .capture import SiteFeatures
from .view import View

LONG_SIDE = 230  # of a cell, in pixels


def draw_site(
    features: SiteFeatures,
    image: np.ndarray,
    view: View,
    magnify: float,
    target: str,
    alpha: float = 1.0,
) -> np.ndarray:
    """One site as a picture.

    At the left the image and the clean feature; then a column for each strength, with the augmented
    and the normalised feature, all on one scale, and below what each differs from the clean one by,
    on another scale, symmetric about zero. A perturbation is a few thousandths of a feature, so
    without the differences nobody would see it.

    Args:
        features: From :func:`~afan_mm.visualization.capture`.
        image: (H, W, 3) RGB in uint8.
        view: From :func:`~afan_mm.visualization.choose_view`.
        magnify: The factor on the perturbation, for the caption.
        target: What the loss compared with, for the caption.
        alpha: Weight of a feature map over the image; 1 draws the map alone. Defaults to 1.

    Returns:
        (H, W, 3) RGB in uint8.
    """
    rows = {'augmented': features.augmented, 'normalised': features.normalized}
    rows = {name: row for name, row in rows.items() if row}
    clean = view.map(features.clean)
    maps = {name: [view.map(f) for f in row] for name, row in rows.items()}
    values = torch.stack([clean, *(m for row in maps.values() for m in row)])
    aligned = (
        features.clean.dim() == 4
        and len(features.clean) == 1
        and (view.channels is None or len(view.channels) == 1)
    )
    shape = image.shape[:2] if aligned else _cell_shape(clean)
    cells = iter(_heat_maps(values, _fit(shape), image if aligned and alpha < 1 else None, alpha))
    differences = {name: [m - clean for m in row] for name, row in maps.items()}
    largest = max(float(d.abs().max()) for row in differences.values() for d in row) or 1.0

    k, n = len(features.strengths), len(rows)
    figure, grid = _grid(2 * n, k + 1, _fit(shape), _title(features, view, magnify, target))
    std = float(features.clean.std())
    _show(grid[0, 0], image, 'image')
    _show(grid[1, 0], next(cells), 'clean feature')
    for row, name in enumerate(rows):
        for column, strength in enumerate(features.strengths, 1):
            _show(grid[row, column], next(cells), f'{name}, {_units(features, strength, std)}')
    _show_differences(grid[n:, 1:], differences, rows, features.clean, largest, shape)
    _bar(figure, grid[:n], 'jet', float(values.min()), float(values.max()), 'feature')
    _bar(figure, grid[n:], 'RdBu_r', -largest, largest, 'difference to clean')
    if n > 1:
        _explain(grid[n, 0], features)
    return render(figure)


def _grid(rows: int, columns: int, cell: Tuple[int, int], title: str) -> Tuple[Figure, np.ndarray]:
    """A figure with empty axes for cells of (height, width) pixels, and room for a bar."""
    height, width = cell
    figure = new_figure(columns * (width + 14) + 110, rows * (height + 34) + 90)
    figure.suptitle(title, fontsize=9, x=0.01, y=0.995, ha='left', va='top')
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw=dict(
            left=0.01,
            right=1 - 100 / figure.bbox.width,
            bottom=0.01,
            top=1 - 88 / figure.bbox.height,
            wspace=0.06,
            hspace=24 / height,
        ),
    )
    for axes in grid.flat:
        axes.axis('off')
    return figure, grid


def _show_differences(
    cells: np.ndarray,
    differences: Dict[str, List[Tensor]],
    rows: Dict[str, List[Tensor]],
    clean: Tensor,
    largest: float,
    shape: Tuple[int, int],
) -> None:
    """A row of ``cells`` for each row of differences, whose features ``rows`` holds."""
    height, width = _fit(shape)
    std = float(clean.std())
    for line, (name, shown) in zip(cells, differences.items()):
        for axes, difference, feature in zip(line, shown, rows[name]):
            rms = float((feature - clean).square().mean().sqrt())
            _show(
                axes,
                difference.numpy(),
                f'{name} - clean' + (f', rms {rms / std:.2g} std' if std else ''),
                cmap='RdBu_r',
                vmin=-largest,
                vmax=largest,
                aspect=height / width * difference.shape[1] / difference.shape[0],
            )


def _heat_maps(
    values: Tensor, size: Tuple[int, int], image: Optional[np.ndarray], alpha: float
) -> List[np.ndarray]:
    """The maps (K, H, W) in the colours of ``draw_featmap``; it scales each call by itself, so one
    call gives all one scale.
    """
    grown = F.interpolate(values[None], size, mode='nearest')[0]
    if image is not None:
        small = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        small = F.interpolate(small, size, mode='bilinear', align_corners=False)[0].permute(1, 2, 0)
        image = np.tile(small.round().byte().numpy(), (len(grown), 1, 1))
    drawn = Visualizer.draw_featmap(
        grown.reshape(1, -1, size[1]), image, channel_reduction='squeeze_mean', alpha=alpha
    )
    return np.split(drawn, len(grown))


def _title(features: SiteFeatures, view: View, magnify: float, target: str) -> str:
    shape, s = tuple(features.clean.shape), features.settings
    moments = f'{s.moments} moments' if s.moments else 'no moments (augmentation alone)'
    lines = [
        f'site {features.name}, feature {" x ".join(map(str, shape))}; loss against {target}',
        f'shown: {view.text}',
        ', '.join(filter(None, [s.perturbation, s.norm_text, f'PGD-{s.num_steps}', moments]))
        + f'; drawn x {magnify:g} (rms with the factor, strengths without)',
    ]
    if not features.finite:
        lines.append('THE DIRECTION WAS NOT FINITE: nothing was perturbed')
    return '\n'.join(lines)


def _units(features: SiteFeatures, strength: float, std: float) -> str:
    settings = features.settings
    size = strength * features.scale * settings.epsilon
    if settings.norm == 'l2':
        return f'{size:.2g}{settings.unit_text}'
    if settings.epsilon_unit == 'std':
        return f'{size:.2g} std of each channel'
    if settings.epsilon_unit == 'pixel':
        return f'{255 * size:.2g}/255{settings.unit_text}'
    return f'{255 * size:.2g}/255' + (f' = {size / std:.2g} std' if std else '')


def _explain(axes: Axes, features: SiteFeatures) -> None:
    """What the normalisation left, at full strength."""
    added, left = (
        float((f - features.clean).norm())
        for f in (features.augmented[-1], features.normalized[-1])
    )
    share = f'{left / added:.0%}' if added else 'nothing to keep'
    text = (
        'At full strength\nthe normalised feature\ndiffers from clean by\n'
        f'{share} of what the\naugmentation added (rms).'
    )
    axes.text(0.02, 0.95, text, fontsize=9, va='top', transform=axes.transAxes)


def _show(axes: Axes, picture: np.ndarray, caption: str, **options: Any) -> None:
    axes.imshow(picture, interpolation='nearest', **options)
    axes.set_title(caption, fontsize=8, pad=3)


def _bar(figure: Figure, cells: np.ndarray, cmap: str, low: float, high: float, label: str) -> None:
    top, bottom = cells[0, -1].get_position(), cells[-1, -1].get_position()
    axes = figure.add_axes(
        [top.x1 + 12 / figure.bbox.width, bottom.y0, 12 / figure.bbox.width, top.y1 - bottom.y0]
    )
    figure.colorbar(ScalarMappable(Normalize(low, high), cmap), cax=axes).set_label(
        label, fontsize=8
    )
    axes.tick_params(labelsize=7)


def _fit(shape: Tuple[int, int]) -> Tuple[int, int]:
    return tuple(max(40, round(side * LONG_SIDE / max(shape))) for side in shape)


def _cell_shape(clean: Tensor) -> Tuple[int, int]:
    """That of the map, unless its sides differ so much that nothing could be seen."""
    height, width = clean.shape
    return (max(height, width // 2), max(width, height // 2))
