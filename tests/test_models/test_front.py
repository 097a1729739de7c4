"""A parameter that the host applies outside a module call, on a path past the site."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from support.tiny import gradients
from support.toy import RATIOS, batch

SETTINGS = dict(
    site='backbone.stage2', epsilon=0.3, num_strengths=2, strengths='linspace', moments=None
)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stage1, self.stage2 = nn.Linear(4, 6), nn.Linear(6, 6)
        self.gain = nn.Parameter(torch.full((6,), 2.0))

    def forward(self, x):
        with torch.set_grad_enabled(True):  # as a host that may freeze it
            a = self.stage1(x) * self.gain
            return a, self.stage2(a)


class Net(BaseModel):
    def __init__(self, afan, again):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.fc = Backbone(), nn.Linear(12, 3)
        self.neck = MODELS.build(dict(type='AFANNeckWrapper', base=None, afan=afan))
        self.again = again

    def loss(self, x, y):
        a, b = self.neck(self.backbone(x))
        return dict(loss=F.cross_entropy(self.head(a, b), y))

    def head(self, a, b):
        """With ``again`` the same parameter once more, after the site."""
        return self.fc(torch.cat([a, b * self.backbone.gain if self.again else b], 1))

    def forward(self, x, y, mode='loss'):
        return self.loss(x, y)


def formula(again, detach, detach_context, x, y):
    """Eq. 6 on one graph, in which the feature and what goes past it are cut off as said."""
    model = Net(dict(SETTINGS, num_strengths=0), again).double()
    a, b = model.backbone(x)
    clean = F.cross_entropy(model.head(a, b), y)
    sign = torch.autograd.grad(clean, b, retain_graph=True)[0].sign()
    front, past = b.detach() if detach else b, a.detach() if detach_context else a
    adversarial = [
        F.cross_entropy(model.head(past, front + ratio * SETTINGS['epsilon'] * sign), y)
        for ratio in RATIOS
    ]
    (clean + sum(adversarial)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize('again', (False, True))
@pytest.mark.parametrize(
    'detach, detach_context', ((True, None), (True, False), (False, True), (False, False))
)
def test_it_learns_from_the_adversarial_losses_only_where_the_front_does(
    detach, detach_context, again
):
    data = batch()
    settings = dict(SETTINGS, detach=detach, detach_context=detach_context)
    found = gradients(Net(settings, again).double(), data)
    cut = detach if detach_context is None else detach_context
    expected = formula(again, detach, cut, data['x'], data['y'])
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-10, atol=1e-12, msg=name)


def test_parameters_learn_again_after_an_error():
    model = Net(dict(SETTINGS, detach=True), False).double()
    model.backbone.stage1.bias.requires_grad = False  # frozen by the host
    calls = []

    def fail(*args):
        calls.append(1)
        if len(calls) == 2:  # in the first adversarial pass
            raise KeyboardInterrupt

    model.fc.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        gradients(model, batch())
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {name for name, _ in model.named_parameters()} - {'backbone.stage1.bias'}
