"""A stock model that a CPU can build and run: without weights, for small images."""

import copy
import random
from typing import Any, Tuple

import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn

from .utils.configs import dicts, type_name

WEIGHTS = ('pretrained', 'checkpoint', 'teacher_ckpt')
PRETRAINED = ('Pretrained', 'PretrainedInit')  # the name of an initialisation, and its class's


def without_weights(model: dict) -> None:
    """Let a model load none of the files that its config names, and none that a library would
    choose.
    """
    for node in dicts(model):
        for key in WEIGHTS:
            if isinstance(node.get(key), str):
                node[key] = None
        if node.get('pretrained'):  # True, of timm
            node['pretrained'] = False
        if 'init_cfg' in node:
            node['init_cfg'] = without_pretrained(node['init_cfg'])


def without_pretrained(init_cfg: Any) -> Any:
    """An ``init_cfg``, one or a list of such, without what reads a file; None for a single one."""
    if isinstance(init_cfg, (list, tuple)):
        return [each for each in init_cfg if without_pretrained(each) is not None]
    reads = isinstance(init_cfg, dict) and type_name(init_cfg) in PRETRAINED
    return None if reads else init_cfg


def resize(model: dict, shape: Tuple[int, int]) -> None:
    """Let nothing pad images of a shape (H, W) to the size that the config trains on."""
    for node in dicts(model):
        if (node.get('data_preprocessor') or {}).get('size'):  # None beside a size_divisor
            node['data_preprocessor'].update(size=shape)
        if 'batch_augments' in node:
            node['batch_augments'] = [
                each
                for each in node['batch_augments'] or ()
                if type_name(each) != 'BatchFixedSizePad'
            ]


def seed() -> None:
    """Start the random streams that models draw from."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


def build(model: dict) -> nn.Module:
    """The model of a config in training mode, the same weights each time."""
    seed()
    # some models take their config apart
    return revert_sync_batchnorm(MODELS.build(copy.deepcopy(model))).train()
