"""A checkpoint is loaded where it is one of this very model, and refused where it is not."""

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from afan_mm.utils.configs import dicts, type_name
from afan_mm.utils.errors import UsageError
from afan_mm.utils.models import load_exactly, unwrapped


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def saved(path, **changes):
    """A checkpoint of other weights, in a wrapper's names; ``None`` takes a key away."""
    weights = {key: value + 1 for key, value in model().state_dict().items()}
    for key, value in changes.items():
        weights[key.replace('_', '.', 1)] = value
    content = {f'module.{key}': value for key, value in weights.items() if value is not None}
    torch.save(dict(state_dict=content), str(path))
    return str(path)


def test_its_own_checkpoint(tmp_path):
    loaded = model()
    load_exactly(loaded, saved(tmp_path / 'a.pth'))
    for key, value in model().state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value + 1)
    load_exactly(model(), saved(tmp_path / 'b.pth', **{'1_num_batches_tracked': None}))


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'0_bias': None}, r'1 missing \(0.bias\)$'),
        ({'2_weight': torch.zeros(1)}, r'1 unknown \(2.weight\)$'),
        ({'0_bias': torch.zeros(3)}, r'1 of another shape \(0.bias\)$'),
        (
            {'1_weight': None, '1_running_mean': None, '1_running_var': None, '1_bias': None},
            r'4 missing \(1.weight, 1.bias, 1.running_mean, ...\)$',
        ),
        (
            {'0_bias': None, '0_weight': torch.zeros(1), '3_x': torch.zeros(1)},
            r'1 missing \(0.bias\); 1 of another shape \(0.weight\); 1 unknown \(3.x\)$',
        ),
    ],
)
def test_a_checkpoint_of_another_model(changes, message, tmp_path):
    with pytest.raises(UsageError, match=f'of the keys in .*a.pth {message}'):
        load_exactly(model(), saved(tmp_path / 'a.pth', **changes))


def test_the_model_in_a_wrapper():
    plain = model()
    assert unwrapped(plain) is plain
    assert unwrapped(nn.parallel.DataParallel(plain)) is plain


def test_parts_of_a_config():
    assert [type_name(each) for each in (dict(type='mmdet.FPN'), dict(type=nn.Linear), {})] == [
        'FPN',
        'Linear',
        '',
    ]
    config = ConfigDict(a=[dict(b=1), (dict(c=dict(d=2)),)], e='f')
    assert [sorted(each) for each in dicts(config)] == [['a', 'e'], ['b'], ['c'], ['d']]
