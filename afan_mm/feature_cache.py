"""A frozen backbone that computes the features of an image once, for heads that train on them."""

import hashlib
from typing import Dict, List, Tuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class FeatureCache(BaseModule):
    """A stock backbone that stays as it was loaded; features of training images are kept.

    Its norms use their loaded statistics and its parameters require no gradient, so that an image
    has the same features in every epoch. They are found by the image's values: where training draws
    few different ones, as from a small data set with flips alone, nearly every iteration trains the
    head only. Nothing is kept in evaluation, whose images are seen once, nor of an image that
    requires a gradient, as in an attack on the pixels.

    Args:
        base: Config of the stock backbone, which returns a sequence of maps. Its ``init_cfg`` is
            obeyed.
        max_images: Images whose features are kept, in the CPU's memory; those that come later are
            computed each time. Defaults to 1000.
    """

    def __init__(self, base: dict, max_images: int = 1000) -> None:
        super().__init__()
        with MODELS.switch_scope_and_registry(None) as registry:
            self.base = registry.build(base)
        self.base.requires_grad_(False)
        self.max_images = max_images
        self._known = _Known()
        self.train()

    def train(self, mode: bool = True) -> 'FeatureCache':
        """The backbone itself stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Maps of a batch ``(N, 3, H, W)``, each ``(N, C, H', W')``."""
        if not self.training or images.requires_grad:
            return tuple(self.base(images))
        return self._kept(images)

    @torch.no_grad()
    def _kept(self, images: Tensor) -> Tuple[Tensor, ...]:
        known = self._known.features
        names = [_name(image) for image in images]
        unknown = [i for i, name in enumerate(names) if name not in known]
        computed: Dict[str, List[Tensor]] = {}
        if unknown:
            maps = self.base(images[unknown])
            computed = {names[i]: [m[row].cpu() for m in maps] for row, i in enumerate(unknown)}
            room = max(self.max_images - len(known), 0)
            known.update(list(computed.items())[:room])
        rows = [known.get(name) or computed[name] for name in names]
        return tuple(torch.stack(level).to(images.device) for level in zip(*rows))


class _Known:
    """Maps by the name of their image.

    Without a ``__dict__``, so that the adversarial passes, which put back what a host's attributes
    were before them, do not copy all that is kept: it depends on the images alone.
    """

    __slots__ = ('features',)

    def __init__(self) -> None:
        self.features: Dict[str, List[Tensor]] = {}


def _name(image: Tensor) -> str:
    return hashlib.blake2b(image.cpu().contiguous().numpy().tobytes()).hexdigest()
