"""A stock model, built small, with a random batch for one step of it."""

import copy
import logging
import warnings
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, Tuple

import torch
from mmengine.config import Config
from torch import nn

from ..isolation import at_the_end, isolated_random
from ..random_batches import training_shape, zoo_batch
from ..stock_model import build, resize, without_weights
from ..utils.configs import dicts
from .host import Host, in_scope

MAX_PIXELS = 224 * 224  # of an image; larger ones are shrunk to about as many
STEP = 32  # of the sides of a shrunk image, in pixels
SMALLEST = 64
USUAL = (224, 224)  # where a config names no size
Shape = Tuple[int, int]


@contextmanager
def trial_step(
    cfg: Config, host: Host, scope: str, shape: Shape
) -> Iterator[Tuple[nn.Module, Callable[[], Dict[str, Any]]]]:
    """Inside, the model of a config without pretrained weights, in training mode, and what gives
    its losses of a random batch; random streams are outside as they were.

    Args:
        cfg: The stock config.
        host: Its model.
        scope: That of the host.
        shape: (H, W) of the images, one of :func:`shapes_of`.
    """
    config = small_model(cfg, host, shape)
    if scope == 'mmdet':  # the detector of a tracker has none of its own
        config.setdefault('data_preprocessor', dict(type='DetDataPreprocessor'))
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        # where the config has none, that of whatever ran before would be in force
        stack.enter_context(in_scope(None if cfg.get('default_scope') else scope))
        stack.enter_context(torch.enable_grad())
        # a preprocessor or a loss that asks for the iteration fails where there is none
        stack.enter_context(at_the_end())
        stack.enter_context(isolated_random(0, torch.device('cpu')))
        loader = cfg.get('train_dataloader')  # it may load masks
        batch = zoo_batch(
            Config(dict(model=config, default_scope=scope, train_dataloader=loader)), shape
        )
        model = build(config)
        model.init_weights()
        data = model.data_preprocessor(batch, True)
        yield model, lambda: model._run_forward(data, mode='loss')


def shapes_of(cfg: Config) -> Tuple[Shape, ...]:
    """Shapes of images to try: small ones of the same form, and those that the config trains on."""
    own = training_shape(cfg) or USUAL
    return tuple(dict.fromkeys((shrunk(own), own)))


def shrunk(shape: Shape) -> Shape:
    """Sides of an image of the same form, and of about ``MAX_PIXELS`` if it has more."""
    factor = (MAX_PIXELS / (shape[0] * shape[1])) ** 0.5
    if factor >= 1:
        return shape
    return tuple(max(SMALLEST, round(side * factor / STEP) * STEP) for side in shape)


def small_model(cfg: Config, host: Host, shape: Shape) -> dict:
    """The config of a host for images of another shape, and without weights.

    The RoIs that a detector samples become fewer as the image does: else the RoI head would have a
    share of the step that it has on no real image.
    """
    model = copy.deepcopy(host.config)
    if len(host.path) == 1 and cfg.get('data_preprocessor'):  # as a runner does
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    without_weights(model)
    resize(model, shape)
    own = training_shape(cfg) or USUAL
    ratio = shape[0] * shape[1] / (own[0] * own[1])
    for node in dicts(model):
        if node.get('with_cp'):
            node['with_cp'] = False  # inside a checkpoint there is no graph
        if isinstance(node.get('sampler'), dict) and 'num' in node['sampler']:
            node['sampler']['num'] = max(1, round(node['sampler']['num'] * ratio))
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """What a model says of itself while it is built and run, the run will say again."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
