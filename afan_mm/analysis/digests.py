"""A digest of whatever figures depend on: configs, data samples, weights."""

import hashlib
from typing import Any

import numpy as np
import torch


def digest(*parts: Any) -> str:
    """Of values, the same in every process: whether two runs look at the same.

    Args:
        parts: Numbers, strings, arrays, tensors, classes and functions; dicts, lists and sets of
            them; and objects that hold them, such as the data samples of mmengine.
    """
    found = hashlib.sha256()
    _feed(found, parts)
    return found.hexdigest()


def _feed(found: Any, part: Any) -> None:
    """Each part with its kind and size before it, so that no two of them run into each other."""
    if torch.is_tensor(part):
        found.update(f'tensor {part.dtype} {tuple(part.shape)} '.encode())
        # as bytes, since numpy knows no bfloat16; of a copy, since one element may have any stride
        part = part.detach().cpu().clone(memory_format=torch.contiguous_format).flatten()
        found.update(part.view(torch.uint8).numpy().tobytes())
    elif isinstance(part, np.ndarray) and part.dtype != object:
        found.update(f'array {part.dtype} {part.shape} '.encode())
        found.update(part.tobytes())
    elif isinstance(part, dict):
        found.update(f'dict {len(part)} '.encode())
        for key in sorted(part, key=repr):
            _feed(found, key)
            _feed(found, part[key])
    elif isinstance(part, (list, tuple, np.ndarray)):
        found.update(f'list {len(part)} '.encode())
        for each in part:
            _feed(found, each)
    elif isinstance(part, (set, frozenset)):  # their order is another one in each process
        _feed(found, sorted(part, key=repr))
    elif hasattr(part, '__qualname__'):  # classes and functions, whose repr may be an address
        found.update(f'name {part.__module__}.{part.__qualname__} '.encode())
    elif hasattr(part, '__dict__'):
        _feed(found, type(part))
        _feed(found, vars(part))
    else:
        text = repr(part)
        found.update(f'{type(part).__name__} {len(text)} {text} '.encode())
