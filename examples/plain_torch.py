"""A-FAN on a plain torch module, its step checked against the paper's formula: python
examples/plain_torch.py

The classifier knows nothing of OpenMMLab; ``import afan_mm`` itself needs mmengine.
"""

import torch
import torch.nn.functional as F
from torch import nn

from afan_mm import AFANOptimWrapper, AFANSettings, tap

ONE = dict(epsilon=0.1, num_strengths=1, strengths='linspace', moments=None)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.front, self.head = nn.Linear(8, 6), nn.Linear(6, 3)
        self.afan = AFANSettings(name='feature', **ONE)

    def forward(self, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(self.head(feature), y))

        feature = torch.tanh(self.front(x))
        return tail(tap('feature', feature, tail, self.afan))['loss']


def step(model, x, y):
    wrapper = AFANOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.5))
    with wrapper.optim_context(model):
        loss = model(x, y)
    wrapper.update_params(loss)


def formula(model, x, y):
    """The weights after a step: clean loss plus that of the perturbed feature (Eqs. 2, 3, 6)."""
    feature = torch.tanh(model.front(x))
    clean = F.cross_entropy(model.head(feature), y)
    (gradient,) = torch.autograd.grad(clean, feature, retain_graph=True)
    total = clean + F.cross_entropy(model.head(feature + 0.1 * gradient.sign()), y)
    weights = list(model.parameters())
    return [w.detach() - 0.5 * g for w, g in zip(weights, torch.autograd.grad(total, weights))]


if __name__ == '__main__':
    model = Classifier().double()
    x, y = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    expected = formula(model, x, y)
    step(model, x, y)
    difference = max((w - e).abs().max().item() for w, e in zip(model.parameters(), expected))
    print(f'largest difference between step and formula: {difference:.1e}')
