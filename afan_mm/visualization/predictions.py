"""One picture of what a perturbation of the image does to a prediction."""

import copy
import os
from typing import Any, Dict, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor

from .canvas import new_figure, render, save_png, to_rgb

# of a panel, in pixels: labels stay readable on small images, and the file small for large ones
LONG_SIDE = 480
SCORE_THRESHOLD = 0.3


def draw_comparison(
    dataset_meta: Dict[str, Any],
    clean_image: Tensor,
    perturbed_image: Tensor,
    clean_sample: Any,
    robust_sample: Any,
    magnify: float,
    path: str,
) -> None:
    """Write six panels as one PNG: clean image, perturbed image, their difference; ground truth,
    and both predictions.

    Everything is shown in the original frame: images lose their padding, are flipped back and
        scaled.

    Args:
        dataset_meta: ``metainfo`` of the data set: 'classes', and 'palette' where it has one.
        clean_image, perturbed_image: What the data preprocessor was given, (3, H, W), BGR in [0,
            255]; H and W may include padding at the right and the bottom.
        clean_sample, robust_sample: ``DetDataSample`` or ``SegDataSample`` with the predictions on
            the two images, and the ground truth of the first, in the original frame; metainfo has
            ``ori_shape`` and ``img_shape``.
        magnify: Factor on the difference, which is drawn around a mid grey.
        path: The file.

    Raises:
        ValueError: If the two images differ in shape.
        OSError: If the file cannot be written.
    """
    if clean_image.shape != perturbed_image.shape or clean_image.dim() != 3:
        raise ValueError(
            'clean_image and perturbed_image must both be (3, H, W), but got '
            f'{tuple(clean_image.shape)} and {tuple(perturbed_image.shape)}'
        )
    clean_image, perturbed_image = (
        clean_image.detach().float().cpu(),
        perturbed_image.detach().float().cpu(),
    )
    difference = perturbed_image - clean_image
    clean, perturbed, change = (
        to_rgb(_in_original_frame(image, clean_sample.metainfo))
        for image in (clean_image, perturbed_image, 127.5 + magnify * difference)
    )
    visualizer = _visualizer(clean_sample, dataset_meta)
    scored = f' (score > {SCORE_THRESHOLD:g})' if 'pred_instances' in clean_sample else ''
    panels = {
        'clean image': clean,
        'perturbed image': perturbed,
        f'difference x {magnify:g} (grey = no change; largest {difference.abs().max():.3g} of '
        '255)': change,
        'ground truth': _draw(visualizer, clean, clean_sample, 'gt'),
        f'prediction on the clean image{scored}': _draw(visualizer, clean, clean_sample, 'pred'),
        f'prediction on the perturbed image{scored}': _draw(
            visualizer, perturbed, robust_sample, 'pred'
        ),
    }
    save_png(_arrange(panels, str(clean_sample.metainfo.get('img_path', ''))), path)


def _in_original_frame(image: Tensor, meta: Dict[str, Any]) -> Tensor:
    """The part of an input that shows the image, as the image was before the pipeline, at the size
    of a panel.
    """
    height, width = meta.get('img_shape', image.shape[-2:])[:2]
    image = image[:, :height, :width]
    if meta.get('flip'):
        image = image.flip(
            dict(horizontal=(2,), vertical=(1,), diagonal=(1, 2))[meta['flip_direction']]
        )
    size = _panel_size(meta['ori_shape'])
    # Noise of single pixels must survive: nearest where the image grows, an average where it
    # shrinks.
    return F.interpolate(image[None], size, mode='nearest' if size[0] > image.shape[1] else 'area')[
        0
    ]


def _panel_size(ori_shape: Tuple[int, ...]) -> Tuple[int, int]:
    factor = LONG_SIDE / max(ori_shape[:2])
    return tuple(max(1, round(side * factor)) for side in ori_shape[:2])


def _visualizer(sample: Any, dataset_meta: Dict[str, Any]) -> Any:
    """The stock visualizer of the sample's library, with a colour for every class."""
    classes = tuple(dataset_meta['classes'])
    palette = dataset_meta.get('palette')
    if palette is None:
        palette = [
            tuple(int(255 * part) for part in colormaps['hsv'](i / len(classes))[:3])
            for i in range(len(classes))
        ]
    if type(sample).__name__ == 'SegDataSample':
        from mmseg.visualization import SegLocalVisualizer  # only for segmentors

        visualizer = SegLocalVisualizer(alpha=0.6)
    else:
        from mmdet.visualization import DetLocalVisualizer  # only for detectors

        visualizer = DetLocalVisualizer(line_width=2, alpha=0.6)
    # SegLocalVisualizer mixes up the two as arguments
    visualizer.dataset_meta = dict(classes=classes, palette=palette)
    return visualizer


def _draw(visualizer: Any, image: np.ndarray, sample: Any, which: str) -> np.ndarray:
    """The ground truth ('gt') or the prediction ('pred') of a sample on an image of the size of a
    panel.
    """
    scaled = _scaled(sample, which, image.shape[:2])
    if not scaled.keys():
        return image
    options = dict(pred_score_thr=SCORE_THRESHOLD) if 'pred_instances' in scaled else {}
    visualizer.add_datasample(
        'panel', image, scaled, draw_gt=which == 'gt', draw_pred=which == 'pred', **options
    )
    return visualizer.get_image()


def _scaled(sample: Any, which: str, size: Tuple[int, int]) -> Any:
    """A copy with the ``which`` annotations alone, scaled from the original frame to (height,
    width) ``size``.
    """
    result = type(sample)(metainfo=sample.metainfo)
    for kind in ('instances', 'sem_seg', 'panoptic_seg'):
        name = f'{which}_{kind}'
        if name not in sample:
            continue
        data = sample.get(name).cpu()
        if kind == 'instances':
            scaled = _scale_instances(data, sample.metainfo['ori_shape'], size)
        else:
            maps = {key: _resize_map(value, size) for key, value in data.items()}
            scaled = type(data)(metainfo=data.metainfo, **maps)
        setattr(result, name, scaled)
    return result


def _scale_instances(instances: Any, ori_shape: Tuple[int, ...], size: Tuple[int, int]) -> Any:
    from mmdet.structures.bbox import scale_boxes  # only for detectors

    scaled = copy.deepcopy(instances)
    if 'bboxes' in scaled:
        scaled.bboxes = scale_boxes(scaled.bboxes, (size[1] / ori_shape[1], size[0] / ori_shape[0]))
    if 'masks' in scaled:
        masks = scaled.masks
        scaled.masks = (
            masks.resize(size) if hasattr(masks, 'to_ndarray') else _resize_map(masks, size)
        )
    return scaled


def _resize_map(values: Any, size: Tuple[int, int]) -> Tensor:
    """Labels or masks (C, H, W), tensor or array, at another size; no value is mixed with its
    neighbours.
    """
    values = torch.as_tensor(values)
    if not len(values):
        return values.new_zeros((0, *size))
    return F.interpolate(values[None].double(), size, mode='nearest')[0].to(values.dtype)


def _arrange(panels: Dict[str, np.ndarray], title: str) -> np.ndarray:
    """The panels in two rows, each under its name."""
    height, width = next(iter(panels.values())).shape[:2]
    figure = new_figure(3 * width + 60, 2 * height + 110)
    figure.suptitle(os.path.basename(title), fontsize=11)
    for place, (name, image) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(2, 3, place)
        axes.imshow(image)
        axes.set_title(name, fontsize=9)
        axes.axis('off')
    figure.tight_layout()
    return render(figure)
