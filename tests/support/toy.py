"""A host of linear layers whose loss a test supplies, and Eq. 6 on explicit graphs for it."""

import torch
from mmengine.model import BaseModel
from torch import nn

RATIOS = (0.5, 1.0)
EXACT = dict(epsilon=0.3, moments=None, num_strengths=2, strengths='linspace', adv_weight=0.7)


class Host(BaseModel):
    """Layers, and a loss that the test supplies: ``run(model, x, y)`` returns a dict of losses."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.front, self.side, self.middle = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 6)
        self.norm, self.classifier = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x, y, mode='loss'):
        return self.run(self, x, y)


def host(run):
    torch.manual_seed(0)
    return Host(run).double().train()


def batch(num_samples=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return dict(
        x=torch.randn(num_samples, 4, generator=generator, dtype=torch.float64),
        y=torch.randint(0, 3, (num_samples,), generator=generator),
    )


def formula(model, clean, sites):
    """Gradients of Eq. 6 from explicit graphs; ``sites`` are (feature, tail as a function of it,
    detach).
    """
    total = clean
    for feature, tail, detach in sites:
        direction = torch.autograd.grad(clean, feature, retain_graph=True)[0].sign()
        start = feature.detach() if detach else feature
        total = total + sum(
            EXACT['adv_weight'] * tail(start + ratio * EXACT['epsilon'] * direction)
            for ratio in RATIOS
        )
    model.zero_grad()
    total.backward()
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def assert_same(ours, expected):
    assert ours.keys() == expected.keys() and any(
        g is not None and g.any() for g in expected.values()
    )
    for name, grad in expected.items():
        assert (ours[name] is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(ours[name], grad, rtol=1e-10, atol=1e-12, msg=name)
