"""Sites of a whole model, which has no place for a neck."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from afan_mm import AFANHost
from afan_mm.utils.errors import UsageError
from support.tiny import gradients
from support.toy import EXACT, assert_same, batch, formula


@MODELS.register_module()
class Neckless(BaseModel):
    """An encoder that returns two levels, and a head."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width))
        self.pyramid, self.head = Pyramid(), nn.Linear(2 * width, 3)

    def tail(self, levels, y):
        return F.cross_entropy(self.head(torch.cat(list(levels), 1)), y)

    def loss(self, x, y):
        return dict(loss=self.tail(self.pyramid(self.encoder(x)), y))

    def forward(self, x, y, mode='loss'):
        return self.loss(x, y)


class Pyramid(nn.Module):
    def forward(self, x):
        return x, x.relu()


def build(**afan):
    return MODELS.build(dict(type='AFANHost', base='Neckless', width=6, afan=afan)).double()


def stock():
    return MODELS.build(dict(type='Neckless', width=6)).double()


@pytest.mark.parametrize('detach', (False, True))
@pytest.mark.parametrize(
    'site', (dict(site='encoder.0'), dict(site='encoder'), dict(site='pyramid', levels=[-1]))
)
def test_gradients_are_those_of_the_formula(site, detach):
    model, data = stock(), batch()
    x, y = data['x'], data['y']
    first = model.encoder[0](x)
    last = model.encoder[1:](first)
    levels = model.pyramid(last)
    feature, tail = {
        'encoder.0': (first, lambda f: model.tail(model.pyramid(model.encoder[1:](f)), y)),
        'encoder': (last, lambda f: model.tail(model.pyramid(f), y)),
        'pyramid': (
            levels[1],
            lambda f: model.tail([levels[0].detach() if detach else levels[0], f], y),
        ),
    }[site['site']]
    expected = formula(model, model.tail(levels, y), [(feature, tail, detach)])
    assert_same(gradients(build(**EXACT, **site, detach=detach), data), expected)


def test_it_is_the_stock_model():
    ours, theirs = build(site='encoder'), stock()
    assert isinstance(ours, Neckless) and isinstance(ours, AFANHost)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert type(copy.deepcopy(ours)) is type(ours)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(base=None), 'base of AFANHost must be the type of a model with a method loss'),
        (dict(base=nn.ReLU), 'base of AFANHost must be the type of a model with a method loss'),
        (dict(afan={}), 'site must be the path of a module'),
        (dict(afan=dict(site='')), 'site must be the path of a module'),
        (dict(wide=6), 'wide must be base, afan or an argument of Neckless'),
    ],
)
def test_errors(changes, message):
    with pytest.raises(UsageError, match=message):
        MODELS.build(dict(dict(type='AFANHost', base='Neckless', width=6), **changes))


def test_a_path_that_is_not_there():
    model = build(site='encoder.9')
    with pytest.raises(ValueError, match='encoder has encoder.0, encoder.1, encoder.2'):
        model.afan_check(model)
