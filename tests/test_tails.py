"""What a host makes of its losses: its own way, or that of mmengine's models where it has none."""

import pytest
import torch
from torch import nn

from afan_mm import AFANOptimWrapper, AFANSettings, tap
from afan_mm.tails import objective_of

LOSSES = dict(
    loss_a=torch.tensor([1.0, 3.0]),  # 2
    loss_b=[torch.tensor(4.0), torch.tensor([5.0, 7.0])],  # 4 + 6
    accuracy=torch.tensor(100.0),
)


def test_a_plain_module_has_the_sum():
    """Each by its mean; what is no loss by its name does not count."""
    assert objective_of(nn.Linear(1, 1), LOSSES) == 12


def test_a_host_has_its_own_way():
    host = nn.Linear(1, 1)
    host.parse_losses = lambda losses: (7 * losses['loss_a'].sum(), {})
    assert objective_of(host, LOSSES) == 28


class Plain(nn.Module):
    """A layer, a site behind it, and two losses."""

    def __init__(self, **afan):
        super().__init__()
        self.front = nn.Linear(3, 2)
        self.afan = AFANSettings(name='feature', num_strengths=1, moments=None, **afan)

    def forward(self, x):
        def tail(feature):
            return dict(loss_a=feature.square().mean(), loss_b=[feature.mean()])

        losses = tail(tap('feature', self.front(x), tail, self.afan))
        return losses['loss_a'] + losses['loss_b'][0]


@pytest.mark.parametrize('detach', (False, True))
def test_target_gain_of_a_plain_module(detach):
    """Epsilon is steered by the losses of a host without ``parse_losses`` too."""
    torch.manual_seed(0)
    model = Plain(epsilon=0.1, target_gain=50.0, detach=detach)
    wrapper = AFANOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
    for _ in range(3):
        with wrapper.optim_context(model):
            loss = model(torch.ones(4, 3))
        wrapper.update_params(loss)
    (factor,) = wrapper.steering.state_dict().values()
    assert float(torch.as_tensor(factor).max()) > 1  # so far the gain is too small
