"""What a step with attached joint sites holds at its peak beside what the stock step does, to the
byte, as the allocator counts it.
"""

import torch
import torch.nn.functional as F
from torch import nn

from afan_mm import AFANOptimWrapper, AFANSettings, tap
from afan_mm.analysis.cost.meters import peak_memory

CHANNELS, SIZE, POOL = 16, 64, 16
LEVEL = 4 * CHANNELS * SIZE**2  # bytes of one of the two levels
X = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
LATE = dict(
    epsilon=0.1,
    epsilon_unit='norm',
    norm='l2',
    norm_over='position',
    moments=None,
    joint=True,
    adv_weight=0.5,
)


class Detector(nn.Module):
    """Two levels, read by a dense head and by one that pools them.

    Args:
        num_strengths, settings: Of both sites.
    """

    def __init__(self, num_strengths, **settings):
        super().__init__()
        self.front = nn.ModuleList([nn.Conv2d(3, CHANNELS, 1) for _ in range(2)])
        self.dense = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.pooled = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.afan = [
            AFANSettings(name, num_strengths=num_strengths, **LATE, **settings)
            for name in ('levels', 'pooled')
        ]

    def forward(self, x):
        def tail(levels):
            loss = sum(self.dense(level).relu().square().mean() for level in levels)
            pooled = sum(F.avg_pool2d(level, POOL) for level in levels)
            pooled = tap('pooled', pooled, None, self.afan[1])
            return dict(loss=loss + self.pooled(pooled).square().mean())

        return tail(tap('levels', [part(x) for part in self.front], tail, self.afan[0]))

    def train_step(self, x, optim_wrapper):
        with optim_wrapper.optim_context(self):
            loss = self(x)['loss']
        optim_wrapper.update_params(loss)


def detector(num_strengths=1, **settings):
    torch.manual_seed(0)
    model = Detector(num_strengths, **settings)
    return model, AFANOptimWrapper(torch.optim.SGD(model.parameters(), 0.1))


def peak(num_strengths):
    model, wrapper = detector(num_strengths)
    model.train_step(X, wrapper)
    return peak_memory(lambda: model.train_step(X, wrapper), torch.device('cpu'))


def test_clean_gradients_do_not_wait_beside_the_passes():
    """Held until the backward of a pass is over they would be two levels."""
    assert (peak(1) - peak(0)) / LEVEL < 0.3


def test_control_is_stock_to_the_bit_where_a_feature_is_read_twice():
    """What is added to a half that is known, part by part, rounds otherwise than the whole."""

    def gradients(clean_weight, **settings):
        model, wrapper = detector(**settings)
        wrapper.clean_weight = clean_weight
        with wrapper.optim_context(model):
            loss = model(X)['loss']
        wrapper.backward(loss)
        return [parameter.grad for parameter in model.parameters()]

    stock = gradients(1.0, num_strengths=0)
    control, late = (gradients(0.5, perturbation=kind) for kind in ('none', 'gradient'))
    assert all(torch.equal(*both) for both in zip(control, stock))
    assert not any(torch.equal(*both) for both in zip(late, stock))


def test_of_a_later_site_the_length_of_its_feature_is_kept_and_not_the_feature():
    model, wrapper = detector()
    with wrapper.optim_context(model):
        loss = model(X)['loss']
        first, later = wrapper._session.sites.values()
        assert first.features[0].untyped_storage().nbytes() == LEVEL
        assert later.features[0].shape == (1, CHANNELS, SIZE // POOL, SIZE // POOL)
        assert later.features[0].untyped_storage().nbytes() == 4
    wrapper.update_params(loss)


def test_host_may_write_to_the_feature_of_a_later_site():
    """Which nobody reads again: the gradients are those of a host that does not."""

    def gradients(activate):
        torch.manual_seed(0)
        layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)]).double()
        layers.afan = [AFANSettings(name, num_strengths=1, **LATE) for name in ('first', 'later')]

        def tail(feature):
            later = activate(tap('later', layers[1](feature), None, layers.afan[1]))
            return dict(loss=layers[2](later).square().mean())

        def forward(x):
            return tail(tap('first', layers[0](x), tail, layers.afan[0]))

        wrapper = AFANOptimWrapper(torch.optim.SGD(layers.parameters(), 0.1))
        with wrapper.optim_context(layers):
            loss = forward(torch.randn(5, 3).double())['loss']
        wrapper.backward(loss)
        return [parameter.grad for parameter in layers.parameters()]

    for found, expected in zip(gradients(torch.relu_), gradients(torch.relu)):
        assert torch.equal(found, expected)
