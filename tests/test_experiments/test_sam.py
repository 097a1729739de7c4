"""The SAM optim wrapper against its formula on a plain model."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from afan_mm.experiments.sam import SAMOptimWrapper

LR, RHO = 0.1, 0.5


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()

    def forward(self, inputs, labels, mode='loss'):
        return dict(loss=nn.functional.cross_entropy(self.layers(inputs), labels))


def batch():
    generator = torch.Generator().manual_seed(1)
    return dict(
        inputs=torch.randn(6, 4, generator=generator, dtype=torch.float64),
        labels=torch.randint(0, 3, (6,), generator=generator),
    )


def wrapped(model, **options):
    return SAMOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), LR), rho=RHO, **options)


def test_update_is_that_of_the_formula():
    """w - lr * grad L(w + rho * grad L(w) / |grad L(w)|); the statistics are those at w."""
    ours, plain = Classifier(), Classifier()
    wrapper = wrapped(ours)
    ours.train_step(batch(), wrapper)

    params = list(plain.parameters())
    before = [p.detach().clone() for p in params]
    grads = torch.autograd.grad(plain(**batch())['loss'], params)
    mean = plain.layers[1].running_mean.clone()
    norm = sum((g**2).sum() for g in grads) ** 0.5
    with torch.no_grad():
        for p, g in zip(params, grads):
            p += RHO * g / norm
    grads = torch.autograd.grad(plain(**batch())['loss'], params)
    for p, start, g in zip(ours.parameters(), before, grads):
        torch.testing.assert_close(p.detach(), start - LR * g, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.layers[1].running_mean, mean)
    assert ours.layers[1].num_batches_tracked == 1 and wrapper._inner_count == 1
    assert not ours._forward_pre_hooks


@pytest.mark.parametrize('rho', (0, -1, float('inf'), float('nan')))
def test_refuses_rho(rho):
    with pytest.raises(ValueError, match='rho must be a finite number > 0'):
        SAMOptimWrapper(optimizer=torch.optim.SGD(Classifier().parameters(), LR), rho=rho)


def test_refuses_accumulation():
    with pytest.raises(ValueError, match='accumulative_counts=1, but got 2'):
        wrapped(Classifier(), accumulative_counts=2)
