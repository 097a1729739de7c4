"""A frozen backbone that computes the features of an image once."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import afan_mm  # noqa: F401  registers FeatureCache


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
