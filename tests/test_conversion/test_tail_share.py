"""Tail shares: by hand on a tiny model, and beside what an adversarial pass really runs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from afan_mm.conversion import tail_share
from afan_mm.conversion.stages import inner_modules, stages
from afan_mm.conversion.tail_share import Meter
from afan_mm.models.point import Point
from support.tiny import batch_of, build, optim_wrapper, stock_config, train, with_afan
from support.versions import counts_operations

FlopCounterMode = tail_share.FlopCounterMode  # None before torch 2.1
pytestmark = counts_operations

# Operations of the layers of Tiny on its images, 2 x batch x places x inputs x outputs x kernel.
STEM = 2 * 2 * 25 * 3 * 4
BODY = 2 * 2 * 25 * 4 * 6 * 9
SIDE = 2 * 2 * 25 * 4 * 2
PRODUCT = 2 * 2 * 6 * 6
LAST = 2 * 2 * 6 * 3
ALL = STEM + BODY + SIDE + PRODUCT + LAST


class Mixing(nn.Module):
    """A product of its own beside a layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(6))
        self.last = nn.Linear(6, 3)

    def forward(self, vector):
        return self.last(vector @ self.weight)


class Tiny(nn.Module):
    """A side loss that reads the stem is computed last."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.body = nn.Conv2d(4, 6, 3, padding=1)
        self.head = Mixing()
        self.side = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        stem = self.stem(images)
        vector = self.body(stem).mean((2, 3))
        loss = self.head(vector).sum()
        with torch.no_grad():
            unread = self.head.last.bias.sum()
        return dict(loss=loss, loss_side=[self.side(stem).mean()], acc=unread)


def measured(model, points, shape=(2, 3, 5, 5)):
    images = torch.ones(shape)
    return Meter(model, points, lambda: model(images))


def test_shares_by_hand():
    model = Tiny()
    meter = measured(
        model,
        dict(
            stem=Point(model.stem),
            body=Point(model.body),
            vector=Point(model.head, reads=True),
            last=Point(model.head.last, reads=True),
            end=Point(model.head),
        ),
    )
    assert meter.total == ALL and list(meter.features) == ['stem', 'body', 'vector', 'last', 'end']
    assert meter.share('stem') == (ALL - STEM) / ALL
    # what is computed later, but does not depend on it, is not in its tail
    assert meter.share('body') == meter.share('vector') == (PRODUCT + LAST) / ALL
    assert meter.share('last') == (LAST + PRODUCT) / ALL  # of the module around it, as a whole
    assert meter.share('end') == 0
    assert meter.calls[model.body] == 1 and meter.within[model.head] == PRODUCT + LAST
    assert model.body._forward_hooks == {} and 'forward' not in vars(model.body)


class Several(nn.Module):
    """A module that returns three tensors, of which the loss reads the last."""

    def __init__(self):
        super().__init__()
        self.first = nn.Identity()
        self.body = nn.Linear(2, 2)

    def forward(self, vector):
        first = self.first((torch.arange(2), vector + 1, dict(b=vector + 2)))
        with torch.no_grad():
            hidden = self.body(first[1])
        kept = functional.relu_(self.body(first[2]['b']))
        return dict(loss=kept.sum() + hidden.sum())


def test_levels_that_are_read_and_features_that_are_lost():
    model = Several()
    model.requires_grad_(False)  # a frozen front has a tail as well
    meter = measured(model, dict(first=Point(model.first), body=Point(model.body)), shape=(4, 2))
    assert len(meter.features['first'].levels) == 3
    assert meter.levels_read('first') == (2,)
    assert meter.share('first', (2,)) == 0.5 and meter.share('first', (1,)) == 0
    assert meter.features['first'].is_intact
    assert not meter.features['body'].is_intact  # the second call, with gradients: overwritten
    assert meter.levels_read('first', by=meter.features['body'].levels) == (2,)


def test_torch_that_cannot_count(monkeypatch):
    monkeypatch.setattr(tail_share, 'FlopCounterMode', None)
    with pytest.raises(ImportError, match='has no torch.utils.flop_counter; torch 2.1 has'):
        measured(Tiny(), {})


C1 = 2 * 2 * 8 * 8 * 8 * 4  # the convolution of DeepLabV3+ on the first level, 8 to 4 channels


@pytest.mark.parametrize(
    'host,site,levels,beside', [('segmentor', 'input', (-1,), C1), ('detector', 'output', None, 0)]
)
def test_an_adversarial_pass_runs_its_tail_share(host, site, levels, beside):
    """The same counter over real training steps, exactly; ``beside`` is what a pass computes again
    from another level.
    """
    model = build(stock_config(host))
    data = model.data_preprocessor(batch_of(host), True)
    point = Point(model.backbone if site == 'input' else model.neck)
    meter = Meter(model, dict(site=point), lambda: model._run_forward(data, mode='loss'))
    levels = levels or meter.levels_read('site')
    assert len(levels) == 1 or levels == (0, 1, 2, 3, 4)
    forward = []
    for strengths in (0, 1):
        afan = dict(site=site, levels=levels, num_strengths=strengths)
        trained = build(
            with_afan(stock_config(host), neck=dict(afan, reuse_proposals=host == 'detector'))
        )
        with FlopCounterMode(display=False) as counter:
            train(trained, optim_wrapper(trained), [batch_of(host)])
        counts = counter.get_flop_counts()['Global']
        # a linear layer's backward pass is another operation, as a convolution's
        forward.append(counts[torch.ops.aten.convolution] + counts.get(torch.ops.aten.addmm, 0))
    assert forward[0] == meter.total
    assert forward[1] - forward[0] == round(meter.share('site', levels) * meter.total) + beside


class Block(nn.Module):
    """A stage of one convolution."""

    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, feature):
        return self.conv(feature)


class Backbone(nn.Module):
    """A stem, a body of blocks that holds nearly everything, one of them run twice, and a list."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.body = nn.Sequential(Block(), Block(), Block())
        self.more = nn.ModuleList([Block(), Block()])
        self.tiny = nn.Sequential(nn.ReLU())
        self.unused = Block()

    def forward(self, images):
        feature = self.tiny(self.body(self.stem(images)))
        for block in (self.more[1], self.more[0], self.more[0]):
            feature = block(feature)
        return feature


def test_stages():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Backbone()

        def forward(self, images):
            return dict(loss=self.backbone(images).sum())

    model = Model()
    points = {path: Point(part) for path, part in inner_modules(model.backbone, 'backbone')}
    assert set(points) == {
        *(f'backbone.{name}' for name in ('body', 'more', 'tiny', 'unused')),
        *(f'backbone.body.{i}' for i in range(3)),
        *(f'backbone.more.{i}' for i in range(2)),
    }
    meter = measured(model, points)
    assert stages(model.backbone, meter, 'backbone') == ['backbone.body', 'backbone.more.1']
    big = copy.deepcopy(model)
    big.backbone.more = nn.ModuleList([nn.Identity(), nn.Identity()])
    meter = measured(
        big, {path: Point(part) for path, part in inner_modules(big.backbone, 'backbone')}
    )
    names = [f'backbone.body.{i}' for i in range(3)]
    assert stages(big.backbone, meter, 'backbone') == names
