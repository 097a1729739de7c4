"""The analyses of checkpoints of one config, as the commands in tools/analysis_tools call them."""

import re
from typing import Any, Dict, List, Optional, Sequence

import torch
from mmengine.config import Config
from torch import nn

from ..conversion import ConversionError, converted
from ..declared import declared_by, trained_modules
from ..settings import AFANSettings
from ..utils.errors import UsageError
from ..utils.files import write_json
from .checkpoints import build_model, named_paths, read_states
from .curvature import CurvatureSettings, measure_curvature
from .landscape import measure_landscape, measure_line
from .losses import FixedLosses, annotated, take_batches
from .progress import Progress
from .sharpness import SharpnessSettings, image_sharpness, measure_sharpness


def fixed_losses(
    cfg: Config, model: nn.Module, batches: Optional[int], split: str = 'train', seed: int = 0
) -> FixedLosses:
    """The loss of a model on batches of the config's data.

    Args:
        cfg: With a data loader of that split.
        model: Of this config.
        batches: How many, kept in memory; None for an epoch.
        split: 'train', with the training pipeline and its random changes, or 'val' or 'test', whose
            pipelines have none; their images differ in size, and come one by one. Defaults to
            'train'.
        seed: Of the sampler, the pipeline and the host's draws. Defaults to 0.

    Raises:
        UsageError: If the config has no such data loader.
    """
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        raise UsageError(f'--split must name data of the config, but it has no {split}_dataloader')
    loader = loader if split == 'train' else annotated(loader)
    about = [cfg.model, cfg.get('data_preprocessor')]
    return FixedLosses(model, take_batches(loader, batches, seed), seed, about)


def hessian_of_checkpoints(
    cfg: Config,
    checkpoints: Sequence[str],
    settings: CurvatureSettings,
    batches: Optional[int] = 4,
    split: str = 'train',
    parameters: str = '',
    work_dir: Optional[str] = None,
    json_file: Optional[str] = None,
    device: str = 'cpu',
) -> Dict[str, Dict[str, Any]]:
    """The curvature at each checkpoint, on the same data.

    Args:
        cfg: Of a model, stock or with A-FAN components.
        checkpoints: See :func:`~afan_mm.analysis.checkpoints.named_paths`.
        settings, work_dir: See :func:`~afan_mm.analysis.curvature.measure_curvature`.
        batches, split: See :func:`fixed_losses`.
        parameters: Regular expression that the names of the weights must contain, such as
            'decode_head'. Defaults to '', all that are trained.
        json_file: Where the results go as they come. Defaults to None, nowhere.
        device: Defaults to 'cpu'.

    Returns:
        By the name of the checkpoint, what ``measure_curvature`` returns.

    Raises:
        UsageError: If config, checkpoint, expression or device cannot be used.
    """
    model = build_model(cfg, device)
    states = read_states(model, named_paths(checkpoints))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        chosen = {name: p for name, p in trained.items() if re.search(parameters, name)}
    except re.error as error:
        raise UsageError(f'--parameters must be a regular expression, but {error}') from error
    if not chosen:
        raise UsageError(
            f'--parameters must fit the name of a trained weight, but {parameters!r} fits none of '
            f'{len(trained)}'
        )
    losses = fixed_losses(cfg, model, batches, split, settings.seed)
    results = {}
    for name, state in states.items():
        model.load_state_dict(state)
        results[name] = measure_curvature(losses, settings, chosen, work_dir)
        if json_file is not None:
            write_json(json_file, results)
    return results


def landscape_of_checkpoints(
    cfg: Config,
    checkpoints: Sequence[str],
    axes: Sequence[Sequence[float]],
    line: bool = False,
    batches: Optional[int] = 4,
    split: str = 'train',
    seed: int = 0,
    processes: int = 1,
    json_file: Optional[str] = None,
    device: str = 'cpu',
) -> Dict[str, Any]:
    """The landscape around each checkpoint, or between two, on the same data.

    Args:
        cfg, checkpoints, batches, split, device: As of :func:`hessian_of_checkpoints`.
        axes: Steps; one list, or two for a plane.
        line: Whether to go straight from the first checkpoint to the second. Defaults to False.
        seed: Of data and directions. Defaults to 0.
        processes, json_file: See :func:`~afan_mm.analysis.landscape.measure_landscape`.

    Raises:
        UsageError: If config, checkpoint or device cannot be used, or a line has not two ends.
    """
    model = build_model(cfg, device)
    states = read_states(model, named_paths(checkpoints))
    losses = fixed_losses(cfg, model, batches, split, seed)
    if not line:
        return measure_landscape(losses, states, axes, seed, processes, json_file)
    if len(states) != 2 or len(axes) != 1:
        raise UsageError(
            f'--line must have two checkpoints and one axis, but got {len(states)} and {len(axes)}'
        )
    names: List[str] = list(states)
    ends = (names[0], names[1])
    return measure_line(losses, *states.values(), axes[0], ends, processes, json_file)


def sharpness_of_checkpoints(
    cfg: Config,
    checkpoints: Sequence[str],
    settings: SharpnessSettings,
    images: Optional[int] = 100,
    split: str = 'val',
    json_file: Optional[str] = None,
    device: str = 'cpu',
) -> Dict[str, Dict[str, Dict[str, Any]]]:
    """The sharpness at the sites of each checkpoint, on the same images.

    Args:
        cfg: Says which sites there are; a stock one gets those of
            :func:`~afan_mm.conversion.converted` with the preset 'paper'.
        checkpoints, json_file, device: As of :func:`hessian_of_checkpoints`.
        settings: See :func:`~afan_mm.analysis.sharpness.measure_sharpness`.
        images: So many of the split, drawn from the seed; they are kept in memory. Defaults to 100;
            None for all.
        split: Defaults to 'val'.

    Returns:
        By the name of the checkpoint, what ``measure_sharpness`` returns.

    Raises:
        UsageError: If config, checkpoint, a setting or the device cannot be used.
    """
    model = build_model(cfg, device)
    try:
        if not _sites(model):
            cfg = converted(cfg, preset='paper')
            model = build_model(cfg, device)
        for site in _sites(model):
            settings.at(site)
    except (ConversionError, TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    states = read_states(model, named_paths(checkpoints))
    loader = cfg.get(f'{split}_dataloader')
    if loader is None:
        raise UsageError(f'--split must name data of the config, but it has no {split}_dataloader')
    loader = annotated(loader)
    try:  # what does not fit a feature shows on the first image, before all are read
        image_sharpness(model, take_batches(loader, 1, settings.seed)[0], settings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    batches = take_batches(loader, images, settings.seed)
    results = {}
    for name, state in states.items():
        model.load_state_dict(state)
        with Progress(f'images, {name}', len(batches)) as progress:
            results[name] = measure_sharpness(model, batches, settings, progress.advance)
        if json_file is not None:
            write_json(json_file, results)
    return results


def _sites(model: nn.Module) -> List[AFANSettings]:
    return [s for _, module in trained_modules(model) for s in declared_by(module)]


def default_device() -> str:
    """A GPU where there is one."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'
