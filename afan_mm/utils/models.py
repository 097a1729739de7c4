"""Models, and the files that hold their weights."""

import hashlib
import io
import os.path as osp
import re
from collections import OrderedDict
from typing import Any, Dict, Sequence

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..auxiliary_norms import auxiliary_norms, is_auxiliary, without_auxiliary
from .errors import UsageError, describe
from .files import write

_WRAPPER = re.compile(r'^module\.')
_COUNTER = 'num_batches_tracked'


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without a wrapper such as DDP's around it."""
    return model.module if is_model_wrapper(model) else model


def read_checkpoint(path: str) -> Dict[str, Any]:
    """The dict that a checkpoint holds, on the CPU.

    Args:
        path: A file, or an address with '://' of a store that mmengine knows.

    Raises:
        UsageError: If there is no such file, or torch cannot or will not read it.
    """
    if '://' not in path and not osp.isfile(path):
        raise UsageError(f'checkpoint must be a file, but got {path}')
    try:
        if '://' in path:
            content = CheckpointLoader.load_checkpoint(path, 'cpu')
        else:
            content = torch.load(path, map_location='cpu')
    except Exception as error:
        # truncated, of another kind, or refused as unsafe: torch raises many types
        raise UsageError(f'cannot read checkpoint {path}: {describe(error)}') from error
    if not isinstance(content, dict):
        raise UsageError(
            f'checkpoint must hold a dict, but {path} holds a {type(content).__name__}'
        )
    return content


def weights_of(checkpoint: Dict[str, Any]) -> Dict[str, Tensor]:
    """The weights in a checkpoint, by name: those under ``state_dict``, or all of it."""
    return checkpoint.get('state_dict', checkpoint)


def digest_of(weights: Dict[str, Any]) -> str:
    """A digest of tensors and of their names, wherever they came from; what else is there does not
    count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        if torch.is_tensor(tensor):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()


def load_exactly(model: nn.Module, path: str) -> None:
    """Load a checkpoint that is one of this very model.

    A missing ``num_batches_tracked`` is none, as nothing depends on it in evaluation; mmengine's
    own loading warns of anything else, and goes on.

    Args:
        model: In no wrapper.
        path: Of the checkpoint, see :func:`read_checkpoint`.

    Raises:
        UsageError: If it cannot be read, or misses weights, has others, or some of another shape:
            how many, and the names of the first.
    """
    given = weights_of(read_checkpoint(path))
    weights = OrderedDict((_WRAPPER.sub('', key), value) for key, value in given.items())
    weights._metadata = getattr(given, '_metadata', None)  # which versions the modules had
    if not auxiliary_norms(model):
        weights = without_auxiliary(weights)
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
    except RuntimeError:  # another shape
        missing, unknown = [], ['']
    if unknown or any(_COUNTER not in key for key in missing):
        raise UsageError(
            f'checkpoint must be of the model of the config, but of the keys in {path} '
            f'{_differences(model.state_dict(), weights)}'
        )


def _differences(expected: Dict[str, Tensor], weights: Dict[str, Any]) -> str:
    shapes = {key: getattr(value, 'shape', None) for key, value in weights.items()}
    wrong = {
        'missing': [key for key in expected if key not in weights and _COUNTER not in key],
        'of another shape': [
            key for key in expected if shapes.get(key, expected[key].shape) != expected[key].shape
        ],
        'unknown': [key for key in weights if key not in expected],
    }
    return '; '.join(
        f'{len(keys)} {what} ({", ".join(map(str, keys[:3]))}{", ..." * (len(keys) > 3)})'
        for what, keys in wrong.items()
        if keys
    )


def _of_stock_model(part: Any) -> Any:
    """A part of a checkpoint, weights without those of auxiliary norms."""
    weights = isinstance(part, dict) and any(map(is_auxiliary, part))
    return without_auxiliary(part) if weights else part


def publish(in_file: str, out_file: str, save_keys: Sequence[str] = ('meta', 'state_dict')) -> str:
    """Write a checkpoint without what only training needs, auxiliary norms among it.

    Args:
        in_file: Checkpoint of a training run.
        out_file: Where to write; '.pth' may be left out. The first eight digits of the new file's
            sha256 are added to its name.
        save_keys: What to keep.

    Returns:
        The path of the new file.

    Raises:
        UsageError: If a file cannot be read or written, or a key is not there.
    """
    if osp.isdir(out_file):
        raise UsageError(f'out_file must name a file, but {out_file} is a folder')
    if not osp.isdir(osp.dirname(out_file) or '.'):
        raise UsageError(f'out_file must be in a folder that exists, but got {out_file}')
    checkpoint = read_checkpoint(in_file)
    missing = [key for key in save_keys if key not in checkpoint]
    if missing:
        there = ', '.join(map(str, checkpoint))
        raise UsageError(
            f'--save-keys must be among {there} for {in_file}, but got {", ".join(missing)}'
        )
    content = io.BytesIO()
    torch.save({key: _of_stock_model(checkpoint[key]) for key in save_keys}, content)
    stem = out_file[: -len('.pth')] if out_file.endswith('.pth') else out_file
    published = f'{stem}-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth'
    try:
        write(published, content.getvalue())
    except OSError as error:
        raise UsageError(str(error)) from error
    return published
