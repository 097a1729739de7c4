"""PGD on the raw pixels of images."""

import os.path as osp
import random
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from ..attack import Perturbation, pgd
from ..isolation import evaluation_mode, flow_modules, isolated_random, replaced
from .auto_attack import auto_attack
from .ground_truth import check_sample, has_ground_truth, ignored_label, to_input_frame
from .objectives import training_loss, weighted_cross_entropy
from .settings import AttackError, AttackSettings

PIXEL_RANGE = (0.0, 255.0)


class Attacked(NamedTuple):
    """Perturbed images.

    Attributes:
        images: For each image its perturbed raw pixels, float32 on the model's device, (C, H, W) as
            it came. Not rounded to whole grey levels, of which most steps are a fraction.
        finite: For each image whether the gradient was finite at every step. Where it is False the
            image is the clean one.
    """

    images: List[Tensor]
    finite: List[bool]


class PixelAttack:
    """Perturbs images within [0, 255] to raise a model's loss on them.

    Raw pixels are perturbed, and the model's own data preprocessor makes the input of them; what it
    pads is never perturbed. Each image is attacked by itself, since a detector's loss is a mean
    over its batch and padding depends on the largest image in it. Norms and dropout are in
    evaluation mode, and what the host draws at random (anchors, RoIs) is drawn alike in every step.
    Everything is computed in float32. The model keeps no trace: flags, buffers, ``.grad`` and the
    global random streams are as before, also after an exception.

    Args:
        model: A detector, a segmentor or a classifier, not in a wrapper such as DDP's. Of a
            semi-supervised detector, whose own loss needs images without labels too, the detector
            that predicts is attacked.
        settings: The attack.
        frame: That of the ground truth, see
            :func:`~afan_mm.robustness.ground_truth.ground_truth_frame`. Defaults to 'input'.
    """

    def __init__(self, model: nn.Module, settings: AttackSettings, frame: str = 'input'):
        self.model = model = predicting(model)
        self.settings = settings
        self.frame = frame
        # a prediction is that of the deployed model; only its training loss needs them
        self.flow_modules = flow_modules(model) if settings.attack == 'pgd' else []
        self._ignored = ignored_label(model)

    def __call__(self, batch: Dict[str, Any], names: Optional[Sequence[str]] = None) -> Attacked:
        """Perturb the images of a batch, or of one sample, as a data loader or a data set yields
        it.

        Args:
            batch: ``inputs``: a tensor (C, H, W), a list of them, of any shapes, or a tensor (N, C,
                H, W), with values in [0, 255]. ``data_samples``: the data sample, or a list of
                them, with ground truth.
            names: What tells the images apart in the seed. Defaults to ``img_id``, the file's name,
                or its place in the batch.
        """
        images, samples = split(batch)
        names = names or [name_of(sample, str(index)) for index, sample in enumerate(samples)]
        found = [self._attack(*each) for each in zip(images, samples, names)]
        return Attacked([image for image, _ in found], [finite for _, finite in found])

    def losses(self, batch: Dict[str, Any], names: Optional[Sequence[str]] = None) -> Tensor:
        """The training loss of each image by itself, (N, ), in evaluation mode; differentiable at
        float ``inputs``.
        """
        images, samples = split(batch)
        names = names or [name_of(sample, str(index)) for index, sample in enumerate(samples)]
        losses = []
        for image, sample, name in zip(images, samples, names):
            sample = self._in_input_frame(sample, image)
            with self._isolated(name):
                losses.append(training_loss(self.model, self._pixels(image), sample))
        return torch.stack(losses)

    def _attack(self, image: Tensor, sample: Any, name: str) -> List[Any]:
        settings, clean = self.settings, self._pixels(image)
        low, high = PIXEL_RANGE
        if clean.min() < low or clean.max() > high:
            raise ValueError(
                f'inputs must be raw pixels in [{low:g}, {high:g}], but got '
                f'[{float(clean.min()):g}, '
                f'{float(clean.max()):g}]: normalise in the data preprocessor, not in the pipeline'
            )
        check_sample(sample)
        sample = self._in_input_frame(sample, image)
        if settings.attack == 'autoattack':
            with self._isolated(name):
                found = auto_attack(self.model, clean, sample, settings.epsilon, settings.seed)
            return [found, True]
        steps = count(1)
        generator = torch.Generator(clean.device).manual_seed(self._seed(name, 'start'))
        found: Perturbation = pgd(
            [clean],
            lambda deltas: [self._gradient(clean + deltas[0], sample, next(steps), name)],
            [settings.epsilon * high],
            [settings.step_size * high],
            settings.num_steps,
            settings.random_start,
            generator=generator,
            bounds=[PIXEL_RANGE],
        )
        # The clamp is for what adding up rounds; the deltas are within the range.
        return [(clean + found.deltas[0]).clamp(low, high), bool(found.finite)]

    def _gradient(self, image: Tensor, sample: Any, step: int, name: str) -> Tensor:
        """The objective's gradient at an image; no parameter's ``.grad`` is written."""
        image = image.detach().requires_grad_()
        with torch.enable_grad(), self._isolated(name):
            loss = self._objective(image, sample, step)
            found = [None]
            if loss.requires_grad:
                try:
                    found = torch.autograd.grad(loss, image, allow_unused=True)
                except RuntimeError as error:
                    if 'checkpoint' not in str(error).lower():
                        raise
                    raise AttackError(
                        'the attack needs torch.autograd.grad, which re-entrant activation '
                        'checkpointing (with_cp=True) does not support: set with_cp=False'
                    ) from error
        if found[0] is None:  # or its figures would be the clean ones
            raise AttackError(
                'the loss must depend on the pixels, but a detach or a torch.no_grad() of the '
                'model lies between them: no attack by gradients can tell how robust it is'
            )
        return found[0]

    def _objective(self, image: Tensor, sample: Any, step: int) -> Tensor:
        settings = self.settings
        if settings.attack == 'pgd':
            return training_loss(self.model, image, sample)
        return weighted_cross_entropy(
            self.model, image, sample, settings.attack, step, settings.num_steps
        )

    @contextmanager
    def _isolated(self, name: str) -> Iterator[None]:
        """The model as it is attacked, with the random numbers of an image.

        No loss sees the other processes: some average their normalisers over all of them, each of
        which has another image.
        """
        device = torch.device(self.model.data_preprocessor.device)
        with ExitStack() as stack:
            stack.enter_context(isolated_random(self._seed(name, 'host'), device))
            stack.enter_context(evaluation_mode(self.model, self.flow_modules))
            stack.enter_context(replaced(torch.distributed, is_initialized=lambda: False))
            yield

    def _in_input_frame(self, sample: Any, image: Tensor) -> Any:
        return to_input_frame(sample, tuple(image.shape[-2:]), self.frame, self._ignored)

    def _pixels(self, image: Tensor) -> Tensor:
        return image.to(self.model.data_preprocessor.device, torch.float32)

    def _seed(self, name: str, purpose: str) -> int:
        return random.Random(f'{self.settings.seed}/{name}/{purpose}').getrandbits(63)


def predicting(model: nn.Module) -> nn.Module:
    """The detector in a semi-supervised one that its test takes; any other model itself."""
    tested = getattr(model, 'semi_test_cfg', None)
    return model if tested is None else getattr(model, tested.get('predict_on', 'teacher'))


def split(batch: Dict[str, Any]) -> List[list]:
    """The images and the data samples of a batch, or of one sample that no data loader has
    collated.
    """
    images, samples = batch['inputs'], batch['data_samples']
    if torch.is_tensor(images) and images.dim() == 3:
        images, samples = [images], [samples]
    if not all(torch.is_tensor(image) and image.dim() == 3 for image in images):
        raise TypeError(
            'inputs must be images (C, H, W), but got several versions of each: the attack does '
            'not work with '
            'test-time augmentation'
        )
    return [list(images), list(samples)]


def name_of(sample: Any, default: str) -> str:
    """What tells an image from the others, wherever its folder is."""
    meta = sample.metainfo
    if meta.get('img_id') is not None:
        return str(meta['img_id'])
    return osp.basename(meta['img_path']) if meta.get('img_path') else default


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
            PixelAttack(model, replace(attack.settings, num_steps=1), attack.frame)(sample)
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
