"""What cannot be attacked, said before an evaluation writes anything."""

from dataclasses import replace
from typing import Any

import torch
from mmengine.model import BaseTTAModel

from .attack_settings import PROTOCOLS, AttackError
from .ground_truth import has_ground_truth
from .pixels import PixelAttack


def host_of(model: torch.nn.Module) -> str:
    """The library of a model: 'mmdet' or 'mmseg'."""
    if isinstance(model, BaseTTAModel):
        raise AttackError('the robust evaluation does not work with test-time augmentation')
    for cls in type(model).__mro__:
        library = cls.__module__.split('.')[0]
        if library in PROTOCOLS:
            return library
    raise AttackError(
        'the robust evaluation needs a detector of mmdet or a segmentor of mmseg, but got '
        f'{type(model).__name__}'
    )


def try_one_image(attack: PixelAttack, dataset: Any) -> None:
    """Find out on the first image of a data set whether there is ground truth, a loss and a
    gradient.

    Raises:
        AttackError: What is missing, in one line.
    """
    if hasattr(dataset, 'get_data_info') and not has_ground_truth(dataset):
        raise AttackError(
            'the attack needs ground truth, but no image of the test set has an object'
        )
    try:
        sample = dataset[0]
    except Exception as error:  # a pipeline may fail in any way
        raise AttackError(
            'the first image of the test set cannot be read with its ground truth '
            f'({type(error).__name__}: {error})'
        ) from error
    model = attack.model
    try:
        with torch.no_grad():
            PixelAttack(model, replace(attack.settings, num_steps=1), attack.original_frame)(sample)
    except (
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        AssertionError,
        NotImplementedError,
    ) as error:
        raise AttackError(
            f'the training loss of {type(model).__name__} cannot be computed on the test set '
            f'({type(error).__name__}: {error}): the test pipeline must load every annotation '
            'that the training '
            'pipeline loads, such as with_mask=True, and the model needs its train_cfg'
        ) from error
