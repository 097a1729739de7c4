"""AutoAttack on a classifier's images, by its authors' package."""

from typing import Any

import torch
from torch import Tensor, nn

from .objectives import preprocess
from .settings import AttackError


def auto_attack(
    model: nn.Module, image: Tensor, sample: Any, epsilon: float, seed: int = 0
) -> Tensor:
    """The image that the standard version of AutoAttack ends with: APGD-CE, targeted APGD-DLR and
    FAB, and Square, each on what the ones before could not turn.

    Croce and Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks*, ICML 2020. Its steps and step sizes are its own.

    Args:
        model: A classifier of mmpretrain, in evaluation mode.
        image: Raw pixels in [0, 255], (C, H, W), float.
        sample: Its data sample, with one label.
        epsilon: Radius of the l-infinity ball, a fraction of the pixel range.
        seed: Of what the attacks draw. Defaults to 0.

    Returns:
        Tensor: (C, H, W), raw pixels.

    Raises:
        AttackError: Where the package is missing, or there is not one label, or fewer than four
            classes, or the model returns no scores, such as one with two classifiers.
    """
    try:
        from pyautoattack import AutoAttack  # an extra
    except ImportError as error:
        raise AttackError('autoattack needs its package: pip install pyautoattack') from error
    label = sample.get('gt_label', None)
    if label is None or len(label) != 1:
        raise AttackError('autoattack needs one gt_label for each image of the test set')

    def logits(pixels: Tensor) -> Tensor:
        if not len(pixels):  # Square asks so where the two best classes are at a tie
            return pixels.new_zeros(0, classes)
        inputs = [preprocess(model, each * 255, sample)['inputs'] for each in pixels]
        return model(torch.cat(inputs), mode='tensor')

    pixels = image[None] / 255
    with torch.no_grad():
        scores = logits(pixels)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        raise AttackError(
            'autoattack needs a model that returns the scores of the classes, (N, C), in '
            f"mode='tensor', but {type(model).__name__} returns {_described(scores)}: run pgd"
        )
    classes = scores.shape[1]
    if classes < 4:
        raise AttackError(f'autoattack needs four classes or more, but got {classes}')
    attack = AutoAttack(logits, norm='Linf', eps=epsilon, seed=seed, device=image.device)
    attack.verbose = False
    for targeted in (attack.apgd_targeted, attack.fab):
        targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
    with torch.enable_grad():
        found, _ = attack.run_standard_evaluation(pixels, label.to(image.device), batch_size=1)
    return found[0].detach() * 255


def _described(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return f'a tensor of shape {tuple(returned.shape)}'
    return f'a {type(returned).__name__}'
