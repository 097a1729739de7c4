"""A frozen backbone that computes the features of an image once."""

import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import afan_mm  # noqa: F401  registers FeatureCache
from afan_mm.isolation import restored_state


@MODELS.register_module()
class TwoLevels(nn.Module):
    """Two maps, one with a norm; counts the images that it sees."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.seen = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), 0

    def forward(self, images):
        self.seen += len(images)
        first = self.conv(images)
        return first, self.norm(first).relu()


@pytest.fixture
def cache():
    torch.manual_seed(0)
    return MODELS.build(dict(type='FeatureCache', base=dict(type='TwoLevels'), max_images=3))


def test_features_are_those_of_the_backbone_in_evaluation(cache):
    images = torch.randn(3, 3, 8, 8)
    expected = cache.base.eval()(images)
    for _ in range(2):
        for got, want in zip(cache.train()(images[[2, 0, 0]]), expected):
            torch.testing.assert_close(got, want[[2, 0, 0]])
    assert cache.base.norm.num_batches_tracked == 0


def test_an_image_is_computed_once(cache):
    images = torch.randn(3, 3, 8, 8)
    cache(images[:2])
    cache(images)
    cache(images)
    assert cache.base.seen == 3


def test_a_changed_image_is_another(cache):
    images = torch.randn(1, 3, 8, 8)
    first = cache(images)[0].clone()
    assert not torch.equal(cache(images.flip(-1))[0], first)
    assert cache.base.seen == 2


def test_more_images_than_there_is_room_for_are_computed_each_time(cache):
    images = torch.randn(5, 3, 8, 8)
    want = cache(images)
    for got, level in zip(cache(images), want):
        torch.testing.assert_close(got, level)
    assert cache.base.seen == 5 + 2


def test_evaluation_keeps_nothing(cache):
    images = torch.randn(2, 3, 8, 8)
    cache.eval()(images)
    cache(images)
    assert cache.base.seen == 4


def test_nothing_of_the_backbone_learns(cache):
    maps = cache(torch.randn(2, 3, 8, 8))
    assert not any(level.requires_grad for level in maps)
    assert not any(p.requires_grad for p in cache.parameters())
    assert set(cache.state_dict()) == {f'base.{key}' for key in cache.base.state_dict()}


@pytest.mark.parametrize('training', [True, False])
def test_features_follow_an_image_that_requires_a_gradient(cache, training):
    """What an attack on the pixels needs, which may set the flag."""
    images = torch.randn(2, 3, 8, 8)
    cache(images)
    images.requires_grad_()
    (got,) = torch.autograd.grad(cache.train(training)(images)[1].sum(), images)
    (want,) = torch.autograd.grad(cache.base(images)[1].sum(), images)
    assert want.any()
    torch.testing.assert_close(got, want, rtol=0, atol=0)


class Reads(TorchDispatchMode):
    """Knows where the tensors are that operators inside were given."""

    def __init__(self):
        super().__init__()
        self.places = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        given = tree_flatten((args, kwargs or {}))[0]
        self.places |= {each.data_ptr() for each in given if isinstance(each, torch.Tensor)}
        return operator(*args, **(kwargs or {}))


def test_the_passes_do_not_copy_what_is_kept(cache):
    """A step would take the longer the more images there are."""
    cache(torch.randn(3, 3, 8, 8))
    kept = {level.data_ptr() for maps in cache._known.features.values() for level in maps}
    with Reads() as reads, restored_state(cache):
        pass
    assert cache.base.norm.running_mean.data_ptr() in reads.places and len(kept) == 6
    assert not kept & reads.places


def test_a_copy_and_a_pickle_keep_it(cache):
    images = torch.randn(2, 3, 8, 8)
    cache(images)
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        seen = other.base.seen
        other(images)
        assert other.base.seen == seen
