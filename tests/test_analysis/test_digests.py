"""What is the same has one digest, in every process, and what differs has another."""

import copy
import subprocess

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from afan_mm.analysis.digests import digest
from support.fast_python import python
from support.tiny import HOSTS, batch_of

DIFFERENT = (
    None,
    0,
    1,
    1.0,
    '1',
    [1],
    [[1]],
    [1, 1],
    ['ab', 'c'],
    ['a', 'bc'],
    {},
    {'a': 1},
    {'a': 2},
    {'b': 1},
    {'a', 'b'},
    int,
    len,
    torch.tensor([1]),
    torch.tensor([1.0]),
    torch.tensor([[1.0]]),
    torch.tensor([1.0], dtype=torch.bfloat16),
    torch.zeros(0, 4),
    np.array([1]),
    np.array([1.0]),
)


def test_what_differs():
    assert len({digest(each) for each in DIFFERENT}) == len(DIFFERENT)
    assert digest('a', 'b') != digest(['a', 'b'])


def test_what_is_the_same():
    """Whatever the order of keys, and in a config as in a dict."""
    assert [digest(copy.deepcopy(each)) for each in DIFFERENT] == list(map(digest, DIFFERENT))
    one, two = dict(a=1, b=dict(c=2, d=[3])), dict(b=dict(d=[3], c=2), a=1)
    assert digest(one) == digest(two) == digest(ConfigDict(two))
    tensor = torch.arange(6.0).reshape(2, 3)
    assert digest(tensor.T.contiguous()) == digest(tensor.T)
    one = torch.tensor(3.0)
    assert digest(one.expand(1)) == digest(one[None])
    assert digest(one.expand(5)[:0]) == digest(torch.zeros(0))


@pytest.mark.parametrize('host', HOSTS)
def test_data_samples(host):
    """Of a label map, of boxes and of what is known of the image."""
    batch = batch_of(host)
    found = {digest(batch)}
    assert digest(copy.deepcopy(batch)) in found
    other = copy.deepcopy(batch)
    annotation = other['data_samples'][1]
    if host == 'segmentor':
        annotation.gt_sem_seg.data[0, 0, 0] += 1
    else:
        annotation.gt_instances.labels[0] += 1
    found.add(digest(other))
    annotation.set_metainfo(dict(pad_shape=(1, 2)))
    found.add(digest(other))
    assert len(found) == 3


def test_the_order_of_a_set_is_another_in_each_process():
    code = "from afan_mm.analysis.digests import digest; print(digest(set('abcdefgh'), print))"
    process = subprocess.run([python(), '-c', code], capture_output=True, text=True, timeout=300)
    assert process.stdout.strip() == digest(set('abcdefgh'), print), process.stderr
