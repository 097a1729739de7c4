"""A GPU computes the gradients that a CPU does, and its random stream goes on as without A-FAN."""

import copy
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config

from afan_mm import AFANSettings, tap
from afan_mm.functional import all_finite
from afan_mm.isolation import isolated_random
from afan_mm.norms import NORM_OVER, l2_norm
from support.exact import assert_same
from support.paths import ROOT
from support.tiny import HOSTS, batch_of, build, gradients, optim_wrapper, stock_config, with_afan
from support.toy import batch, host
from support.versions import with_gpu

pytestmark = with_gpu

PAPER = dict(epsilon=0.3, num_strengths=2, strengths='linspace')
LATE = Config.fromfile(str(ROOT / 'configs/_base_/presets/recommended.py')).late


def on_the_gpu(model, batch):
    """The batch is moved by the model's own preprocessor."""
    grads = gradients(model.cuda(), batch)
    return {name: None if grad is None else grad.cpu() for name, grad in grads.items()}


@pytest.mark.parametrize(
    'settings',
    (
        PAPER,
        dict(PAPER, detach=True),
        dict(PAPER, num_steps=3, moments='instance'),
        dict(PAPER, joint=True, estimator='per_sample'),
        LATE,
        dict(LATE, objective='consistency'),
        dict(LATE, target_gain=0.3),
    ),
    ids=str,
)
@pytest.mark.parametrize('kind', HOSTS)
def test_gradients_are_those_of_a_cpu(kind, settings):
    model = build(with_afan(stock_config(kind), neck=settings, head=settings)).double()
    expected = gradients(copy.deepcopy(model), batch_of(kind))
    assert_same(on_the_gpu(model, batch_of(kind)), expected)


def train_with_dropout(kind='AFANOptimWrapper', options=MappingProxyType({}), **settings):
    """Weights, and where the GPU's random stream stands, after a few steps."""

    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(F.dropout(feature, 0.5)), y))

        afan = AFANSettings(moments=None, draws='clean', **settings)
        return tail(tap('site', model.front(x), tail, afan))

    model = host(run).cuda()
    data = {key: value.cuda() for key, value in batch().items()}
    wrapper = optim_wrapper(model, kind, **options)
    torch.cuda.manual_seed(5)
    for _ in range(5):
        model.train_step(data, wrapper)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights, torch.cuda.get_rng_state()


def test_dropout_goes_on_as_without():
    """Passes on unperturbed features, of half the weight each, are stock training."""
    weights, stream = train_with_dropout('OptimWrapper')
    control = dict(epsilon=0.3, num_strengths=1, adv_weight=0.5, options=dict(clean_weight=0.5))
    same, stream_of_control = train_with_dropout(perturbation='none', **control)
    others, stream_of_afan = train_with_dropout(**control)
    assert torch.equal(same, weights) and not torch.equal(others, weights)
    assert torch.equal(stream_of_control, stream) and torch.equal(stream_of_afan, stream)


def test_a_seeded_block_leaves_the_stream():
    device = torch.device('cuda', torch.cuda.current_device())
    torch.cuda.manual_seed(3)
    expected = torch.rand(4, device=device)
    torch.cuda.manual_seed(3)
    inside = []
    for _ in range(2):
        with isolated_random(7, device):
            inside.append(torch.rand(4, device=device))
    assert torch.equal(torch.rand(4, device=device), expected)
    assert torch.equal(*inside) and not torch.equal(inside[0], expected)


@pytest.mark.parametrize('value', (float('nan'), float('inf'), -float('inf')))
def test_one_element_that_is_not_finite_is_found(value):
    grads = [
        torch.full((n,), 6e4, dtype=d).cuda() for n in (1, 3000) for d in (torch.half, torch.float)
    ]
    assert all_finite(grads)
    for grad in grads:
        kept = grad[-1].clone()
        grad[-1] = value
        assert not all_finite(grads)
        grad[-1] = kept


def test_norms_are_those_of_a_cpu():
    feature = torch.randn(3, 7, 5, 2)
    for over in NORM_OVER:
        for dtype in (torch.half, torch.float, torch.double):
            found = l2_norm(feature.to(dtype).cuda(), over)
            assert found.dtype == torch.promote_types(dtype, torch.float32)
            torch.testing.assert_close(found.cpu(), l2_norm(feature.to(dtype), over))
