"""What an attack on the pixels raises: the model's training loss, or a segmentor's cross-entropy
with weighted pixels.
"""

import copy
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..isolation import at_the_end, replaced
from .ground_truth import MAPS, ignored_label, pad_map
from .settings import AttackError


def training_loss(model: nn.Module, image: Tensor, sample: Any) -> Tensor:
    """The host's training loss for one image, a 0-dim tensor; 'pgd'.

    All of it: auxiliary heads, RPN and masks included. A segmentor's is that of the whole image,
    also where its test cuts it into windows. Where a loss changes with the training (a warm-up,
    another assigner after some epochs), that of its end.

    Args:
        model: The host.
        image: Raw pixels as the pipeline packed them, (C, H, W), float.
        sample: Its data sample, with ground truth in the frame of the image. Never modified.

    Raises:
        AttackError: Classes have weights, and pixels are ignored.
    """
    data = preprocess(model, image, sample)
    try:
        with at_the_end():
            losses = model._run_forward(data, mode='loss')
    except IndexError as error:
        if not _looks_up_ignored(model, data['data_samples'][0]):
            raise
        raise AttackError(
            'the loss of a segmentor with class_weight fails on ignored pixels, of which mmseg '
            f'looks up the weight, too (IndexError: {error}): set class_weight=None in its '
            'loss_decode, or take the attack segpgd or cospgd'
        ) from error
    return model.parse_losses(losses)[0]


def _looks_up_ignored(model: nn.Module, sample: Any) -> bool:
    """Whether a segmentor has weights of its classes, and a sample pixels of none."""
    weights = any(getattr(part, 'class_weight', None) is not None for part in model.modules())
    maps = sample.get('gt_sem_seg')
    return weights and maps is not None and bool((maps.data == ignored_label(model)).any())


def weighted_cross_entropy(
    model: nn.Module, image: Tensor, sample: Any, attack: str, step: int, num_steps: int
) -> Tensor:
    """The pixels' mean cross-entropy in a segmentor's prediction with the weights of an attack, a
    0-dim tensor.

    The prediction is that of the whole image, also where the model's own test cuts it into windows.
    One output channel stands for two classes, of which the first has the logit 0.

    Args:
        attack: 'segpgd' or 'cospgd'.
        step, num_steps: t and T: the step, counted from 1, and the number of all steps.
    """
    data = preprocess(model, image, sample)
    inputs, sample = data['inputs'], data['data_samples'][0]
    if 'gt_sem_seg' not in sample:
        raise AttackError(
            f'{attack} needs a class for each pixel, but the test set has no gt_sem_seg'
        )
    shape = tuple(inputs.shape[-2:])
    logits = model.encode_decode(inputs, [dict(sample.metainfo, img_shape=shape, pad_shape=shape)])
    logits = F.interpolate(logits, shape, mode='bilinear', align_corners=model.align_corners)
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    labels = sample.gt_sem_seg.data.long()
    counted = (labels < logits.shape[1]) & (labels != ignored_label(model))
    labels = labels.where(counted, torch.zeros_like(labels))
    weights = (
        segpgd_weights(logits, labels, step, num_steps)
        if attack == 'segpgd'
        else cospgd_weights(logits, labels)
    )
    entropy = F.cross_entropy(logits, labels, reduction='none')
    return (weights.detach() * entropy * counted).sum() / counted.sum().clamp(min=1)


def segpgd_weights(logits: Tensor, labels: Tensor, step: int, num_steps: int) -> Tensor:
    """1 - lambda_t for pixels that are right, lambda_t = (t - 1) / (2 T) for those that are wrong.

    Pixels that are already wrong cannot get worse, and would otherwise take most of the gradient.
    Gu et al., *SegPGD: An Effective and Efficient Adversarial Attack for Evaluating and Boosting
    Segmentation Robustness*, ECCV 2022, Eq. 4 and Algorithm 1.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W), in [0, C).

    Returns:
        Tensor: (N, H, W).
    """
    wrong = (step - 1) / (2 * num_steps)
    return torch.where(logits.argmax(1) == labels, 1 - wrong, wrong)


def cospgd_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """The cosine between a pixel's predicted distribution (softmax) and its label (one-hot).

    Agnihotri et al., *CosPGD: an efficient white-box adversarial attack for pixel-wise prediction
    tasks*, ICML 2024. As in its released code (``cospgd_scale``), the weight is not differentiated.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W), in [0, C).

    Returns:
        Tensor: (N, H, W), in [0, 1].
    """
    target = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return F.cosine_similarity(logits.softmax(1), target, dim=1)


def preprocess(model: nn.Module, image: Tensor, sample: Any) -> Dict[str, Any]:
    """What the host's own data preprocessor makes of one image, with ground truth padded as the
    input.

    Without the batch augmentations of training, as what is attacked is what is deployed: called as
    for testing, or for a detector as for training, since only there its masks and maps are padded,
    and others made of its boxes.
    """
    preprocessor = model.data_preprocessor
    is_detector = hasattr(preprocessor, 'pad_seg')
    data = dict(inputs=[image], data_samples=[copy.deepcopy(sample)])
    with replaced(preprocessor, batch_augments=None):
        data = preprocessor(data, is_detector)
    if not is_detector:
        _pad_segmentation(
            data['data_samples'], tuple(data['inputs'].shape[-2:]), ignored_label(model)
        )
    return data


def _pad_segmentation(samples: List[Any], shape: Tuple[int, int], ignored: int) -> None:
    for sample in samples:
        for name in MAPS:
            if name in sample:
                pixels = sample.get(name)
                padded = {key: pad_map(values, shape, ignored) for key, values in pixels.items()}
                setattr(sample, name, type(pixels)(metainfo=pixels.metainfo, **padded))
        sample.set_metainfo(dict(img_shape=shape, pad_shape=shape))
