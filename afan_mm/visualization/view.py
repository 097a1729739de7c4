"""What is shown of a feature: which channels, of which RoIs, as one map."""

from typing import NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from .capture import SiteFeatures

CHANNELS = ('squeeze_mean', 'select_max', 'topk')
NUM_ROIS, NUM_VECTOR_CHANNELS = 16, 48


class View(NamedTuple):
    """How a feature (N, C, *S) becomes one map; chosen on the clean feature, so that all maps of a
    site show the same.

    Attributes:
        channels: Indices of the shown channels; None for their mean.
        extent: Share of height and width that is no padding.
        text: What is seen.
    """

    channels: Optional[Tensor]
    extent: Tuple[float, float]
    text: str

    def map(self, feature: Tensor) -> Tensor:
        """(H, W) of (N, C, *S)."""
        feature = feature[:NUM_ROIS]
        if feature.dim() < 4:  # RoI vectors: one row each; a sequence: one row for each channel
            return feature[:, self.channels] if feature.dim() == 2 else feature[0, self.channels]
        height, width = (
            max(1, round(share * side)) for share, side in zip(self.extent, feature.shape[2:])
        )
        feature = feature[..., :height, :width]
        feature = (
            feature.mean(1, keepdim=True) if self.channels is None else feature[:, self.channels]
        )
        return _montage(feature.flatten(0, 1))


def choose_view(features: SiteFeatures, channels: str = 'squeeze_mean', topk: int = 9) -> View:
    """What to show of the features of a site.

    Args:
        features: From :func:`~afan_mm.visualization.capture`, (N, C), (N, C, L) or (N, C, H, W).
        channels: 'squeeze_mean' (mean over the channels) or 'select_max' (the channel with the
            largest sum), as in ``Visualizer.draw_featmap``; 'topk' for a montage of those with the
            largest sums. Vectors show their strongest channels.
        topk: How many for 'topk'. Defaults to 9.

    Raises:
        ValueError: If the feature is empty or has another number of axes.
    """
    clean = features.clean
    if not 2 <= clean.dim() <= 4 or not clean.numel():
        raise ValueError(
            'a feature must have 2 to 4 axes and not be empty to be drawn, but got the shape '
            f'{tuple(clean.shape)}'
        )
    if channels not in CHANNELS:
        raise ValueError(f'channels must be one of {CHANNELS}, but got {channels!r}')
    rois = f'{min(NUM_ROIS, len(clean))} RoIs'
    sums = clean.sum([axis for axis in range(clean.dim()) if axis != 1])
    if clean.dim() < 4:
        strongest = sums.topk(min(NUM_VECTOR_CHANNELS, len(sums))).indices
        what = (
            'rows'
            if clean.dim() == 3
            else f'rows: the first {rois}, columns'
            if len(clean) > 1
            else 'columns'
        )
        return View(
            strongest, (1.0, 1.0), f'{what}: the {len(strongest)} channels with the largest sums'
        )
    rois = f' of the first {rois}' if len(clean) > 1 else ''
    extent = (1.0, 1.0) if rois else features.extent
    if channels == 'squeeze_mean':
        return View(None, extent, f'mean over the channels{rois}')
    chosen = sums.topk(1 if channels == 'select_max' else min(topk, len(sums))).indices
    return View(
        chosen,
        extent,
        f'channel{"s" * (len(chosen) > 1)} {", ".join(map(str, chosen.tolist()))}{rois}',
    )


def _montage(maps: Tensor) -> Tensor:
    """(n, h, w) side by side, nearly square; what is left over is as dark as the smallest value."""
    columns = int(np.ceil(np.sqrt(len(maps))))
    rows = -(-len(maps) // columns)
    padded = torch.cat(
        [maps, maps.new_full((rows * columns - len(maps), *maps.shape[1:]), float(maps.min()))]
    )
    return (
        padded.reshape(rows, columns, *maps.shape[1:])
        .transpose(1, 2)
        .reshape(rows * maps.shape[1], columns * maps.shape[2])
    )
