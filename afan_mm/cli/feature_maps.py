"""Pictures of what A-FAN does to the features of a trained model."""

import os.path as osp
from typing import Iterator, List, Optional, Sequence

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from torch import nn

from ..analysis.checkpoints import build_model
from ..declared import declared_by, trained_modules
from ..utils.errors import UsageError
from ..utils.files import check_output
from ..utils.models import load_exactly, read_checkpoint
from ..visualization import (
    capture,
    choose_view,
    draw_site,
    save_png,
    to_rgb,
)
from .data_check import check_data
from .targeted_images import Source, find_parts, find_sources, load


@torch.no_grad()
def draw_feature_maps(
    cfg: Config,
    checkpoint: str,
    images: Sequence[str] = (),
    indices: Sequence[int] = (),
    split: str = 'val',
    sites: Optional[Sequence[str]] = None,
    num_strengths: Optional[int] = None,
    magnify: float = 20,
    channels: str = 'squeeze_mean',
    topk: int = 9,
    alpha: float = 1,
    score_thr: float = 0.3,
    out_dir: str = 'feature_maps',
    device: Optional[str] = None,
) -> Iterator[str]:
    """Draw each site for each image, in one file each.

    Args:
        cfg: A config with A-FAN sites.
        checkpoint: Of its model.
        images: Files, folders, or names of images of the data. Defaults to none.
        indices: Images of the data by number, from 0. Defaults to none.
        split: The data with the annotations: 'train', 'val' or 'test'. Defaults to 'val'.
        sites, num_strengths, magnify: See :func:`~afan_mm.visualization.capture`.
        channels, topk: See :func:`~afan_mm.visualization.choose_view`.
        alpha: Weight of a feature map over the image, in (0, 1]. Defaults to 1.
        score_thr: Detections above this score stand for a missing annotation. Defaults to 0.3.
        out_dir: Folder for the pictures. Defaults to 'feature_maps'.
        device: Defaults to a GPU where there is one.

    Yields:
        What there is to say of each picture, once it is written.

    Raises:
        UsageError: If config, checkpoint, images, device or folder cannot be used.
        OSError: If a picture cannot be written.
    """
    check_output('--out-dir', osp.join(out_dir, ''))
    read_checkpoint(checkpoint)  # to complain before anything is built
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    parts = find_parts(cfg, split)
    missing = missing_data(cfg, split, images, indices)
    sources = find_sources(images, indices, parts, missing is None)
    names = names_of(sources)
    model = load_model(cfg, checkpoint, device or get_device())
    if missing is not None:
        yield (
            f"the data of --split {split} is not there: every image is compared with the model's "
            'own prediction'
        )
    for source, name in zip(sources, names):
        batch, target = load(source, parts[0]['pipeline'], model, score_thr)
        try:
            captured = capture(model, batch, num_strengths, magnify, sites)
        except ValueError as error:
            raise UsageError(f'cannot take features of {source.path}: {error}') from error
        image = to_rgb(batch['inputs'][0])
        for features in captured:
            path = osp.join(out_dir, f'{name}_{features.name}.png')
            try:
                view = choose_view(features, channels, topk)
            except ValueError as error:
                yield f'{source.path}: site {features.name} is left out: {error}'
                continue
            save_png(draw_site(features, image, view, magnify, target, alpha), path)
            finite = '' if features.finite else ', direction not finite'
            yield f'{path}: site {features.name}, loss against {target}{finite}'


def load_model(cfg: Config, checkpoint: str, device: str) -> nn.Module:
    """The model of an A-FAN config with the weights of a checkpoint, in evaluation mode.

    Raises:
        UsageError: If the model has no site, the checkpoint is not one of it, or there is no such
            device.
    """
    model = build_model(cfg, device, auxiliary=True)
    sites = [settings for _, module in trained_modules(model) for settings in declared_by(module)]
    if not any(settings.num_strengths for settings in sites):
        raise UsageError(
            'the model of the config has no A-FAN site that is switched on; '
            'tools/convert_config.py writes the A-FAN config of a stock one'
        )
    load_exactly(model, checkpoint)
    return model


def names_of(sources: Sequence[Source]) -> List[str]:
    """What the pictures of the images are named by; UsageError where two names are the same."""
    names = [osp.splitext(osp.basename(source.path))[0] for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(
            f'images must have different names, but several are named {", ".join(repeated)}'
        )
    return names


def missing_data(
    cfg: Config, split: str, images: Sequence[str], indices: Sequence[int]
) -> Optional[UsageError]:
    """What is missing of the data of a split, None if nothing is; only images that are files
    themselves can do without it.
    """
    try:
        check_data(cfg, [f'{split}_dataloader'])
    except UsageError as error:
        needed = [image for image in images if not osp.exists(image)] or list(indices)
        if needed:
            raise UsageError(
                f'cannot look {", ".join(map(str, needed))} up in --split {split}: {error}'
            ) from error
        return error
    return None
