"""What hosts do with torch beside the ordinary: checkpoints that are not re-entrant, compiled
submodules, inference mode, sparse gradients, a step of their own.
"""

import types
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn
from torch.utils.checkpoint import checkpoint

from afan_mm import AFANSettings, tap
from support.tiny import (
    assert_identical,
    batch_of,
    build,
    gradients,
    gradients_at_updates,
    optim_wrapper,
    stock_config,
    with_afan,
)
from support.toy import EXACT, assert_same, batch, host
from support.versions import checkpoints_run_again, compiles, knows_checkpoints


class BlockHead(nn.Module):
    """Two layers, which a checkpoint that is not re-entrant may have run again, and a third."""

    def __init__(self, with_cp=False):
        super().__init__()
        self.with_cp = with_cp
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Tanh())
        self.conv_seg = nn.Linear(6, 3)

    def loss(self, x, y):
        run = partial(checkpoint, self.block, use_reentrant=False) if self.with_cp else self.block
        return dict(loss=F.cross_entropy(self.conv_seg(run(x)), y))


@pytest.fixture(autouse=True)
def registered():
    MODELS.register_module(module=BlockHead)
    yield
    MODELS.module_dict.pop('BlockHead')


def block_host(site, with_cp=True, **settings):
    model = host(lambda model, x, y: model.decode_head.loss(torch.tanh(model.front(x)), y))
    settings = dict(dict(EXACT, site=site), **settings)
    torch.manual_seed(2)
    model.decode_head = MODELS.build(
        dict(type='AFANDecodeHead', base='BlockHead', with_cp=with_cp, afan=settings)
    )
    return model.double().train()


@knows_checkpoints
@pytest.mark.parametrize('detach', (True, False))
def test_a_site_inside_a_checkpoint_is_refused(detach):
    """Its layers would run again without the perturbation, and learn from the clean feature."""
    model = block_host('block.0', detach=detach)
    with pytest.raises(RuntimeError, match="'decode_head' is inside activation checkpointing"):
        gradients_at_updates(model, optim_wrapper(model), [batch()])


@pytest.mark.parametrize('detach', (True, False))
@pytest.mark.parametrize('site', ('block', 'block.2'))
def test_a_site_where_a_checkpoint_ends(site, detach):
    models = [block_host(site, with_cp, detach=detach) for with_cp in (True, False)]
    ours, expected = (gradients_at_updates(m, optim_wrapper(m), [batch()])[0] for m in models)
    assert_same(ours, expected)


@checkpoints_run_again
def test_a_checkpoint_before_the_site_that_the_tail_reads_says_why():
    """In a pass its layers are not run, but answered, and in the backward they are run."""

    class SkippingHead(BlockHead):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.block = nn.Linear(6, 9)
            self.third, self.conv_seg = nn.Linear(9, 9), nn.Linear(9, 3)

        def loss(self, x, y):
            feature = checkpoint(self.early, x, use_reentrant=False)
            return dict(loss=F.cross_entropy(self.conv_seg(feature * self.third(feature)), y))

        def early(self, x):
            return torch.tanh(self.block(x))

    MODELS.register_module('BlockHead', force=True, module=SkippingHead)
    model = block_host('third')
    with pytest.raises(RuntimeError, match="sites .'decode_head'.: layers with activation check"):
        gradients_at_updates(model, optim_wrapper(model), [batch()])


@checkpoints_run_again
@pytest.mark.parametrize('kind', ('OptimWrapper', 'AFANOptimWrapper'))
def test_checkpointed_norms_count_as_in_stock(kind):
    """The search for the directions of two attached sites goes through the checkpoint, too."""

    def run(model, x, y):
        def second_tail(feature):
            feature = checkpoint(
                lambda f: model.norm(model.middle(f)), feature, use_reentrant=False
            )
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        def first_tail(feature):
            feature = 2 * feature
            second = AFANSettings(**dict(EXACT, name='second'))
            return second_tail(tap('second', feature, second_tail, second))

        return first_tail(tap('first', model.front(x), first_tail, AFANSettings(**EXACT)))

    model = host(run)
    model.train_step(batch(), optim_wrapper(model, kind))
    # once forward, and once again in the backward
    assert model.norm.num_batches_tracked == 2


@compiles
@pytest.mark.parametrize(
    'compiled', (('backbone',), ('roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg'))
)
def test_compiled_submodules_are_answered_from_the_tape(compiled):
    """They run once in a step where they are before the site, and compute the same."""
    settings = dict(EXACT, epsilon=0.1)
    found, runs = [], []
    for is_compiled in (False, True):
        model = build(with_afan(stock_config('detector'), neck=settings, head=settings))
        for name in compiled if is_compiled else ():
            model.get_submodule(name).compile(backend='eager')
        layer = model.backbone.layer1[0].conv1
        stock, calls = layer.forward, []
        layer.forward = lambda x, stock=stock, calls=calls: calls.append(0) or stock(x)
        found.append(gradients(model, batch_of('detector')))
        runs.append(len(calls))
    assert runs == [1, 1]
    assert_identical(found[1], found[0])


def test_a_backbone_in_inference_mode():
    """Is one without gradients."""
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        model = build(with_afan(stock_config('segmentor'), neck=dict(EXACT)))
        model.backbone.requires_grad_(False)

        def extract_feat(self, inputs, mode=mode):
            with mode():
                levels = self.backbone(inputs)
            return self.neck(tuple(level.clone() for level in levels))

        model.extract_feat = types.MethodType(extract_feat, model)
        grads = gradients(model, batch_of('segmentor'))
        found.append({name: grad for name, grad in grads.items() if grad is not None})
    assert found[0]
    assert_identical(found[1], found[0])


def test_gradients_of_the_context_are_handed_on_and_let_go():
    def run(model, x, y):
        def tail(feature, side):
            return dict(loss=F.cross_entropy(model.classifier(model.middle(feature) + side), y))

        side = model.side(x)
        feature = tap('site', model.front(x), tail, AFANSettings(**EXACT), (side,))
        return tail(feature, side)

    model = host(run)
    wrapper = optim_wrapper(model)
    with wrapper.optim_context(model):
        loss, _ = model.parse_losses(model(**batch()))
    (site,) = wrapper._session.sites.values()
    wrapper.backward(loss)
    assert site.has_run and site.context_gradients == [None]


def one_site(**settings):
    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(model.middle(feature)), y))

        return tail(tap('site', model.front(x), tail, AFANSettings(**dict(EXACT, **settings))))

    return host(run)


@pytest.mark.parametrize('detach', (True, False))
def test_two_forward_passes_before_one_backward(detach):
    """The first one's sites are forgotten by then: no step without A-FAN that says nothing."""
    model = one_site(detach=detach)
    wrapper, losses = optim_wrapper(model), []
    for seed in range(2):
        with wrapper.optim_context(model):
            losses.append(model(**batch(seed=seed))['loss'])
    with pytest.raises(RuntimeError, match="'site': another forward pass began .optim_context"):
        wrapper.update_params(sum(losses))


@pytest.mark.parametrize('joint', (True, False))
def test_an_update_inside_the_context(joint):
    """Passes of a tail that taps again, while the host's clean pass is not yet closed."""

    def run(model, x, y):
        def second_tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(model.norm(feature)), y))

        def first_tail(feature):
            second = AFANSettings(**dict(EXACT, name='second', joint=joint))
            return second_tail(tap('second', model.middle(feature), second_tail, second))

        first = AFANSettings(**dict(EXACT, name='first', joint=joint))
        return first_tail(tap('first', model.front(x), first_tail, first))

    weights = []
    for inside in (False, True):
        model = host(run)
        wrapper = optim_wrapper(model)
        with wrapper.optim_context(model):
            loss, _ = model.parse_losses(model(**batch()))
            if inside:
                wrapper.update_params(loss)
        if not inside:
            wrapper.update_params(loss)
        weights.append(dict(model.named_parameters()))
    assert_same(weights[1], weights[0])


def test_sparse_gradients_that_are_not_finite():
    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(feature), y) * float('nan'))

        feature = model.front(x) + model.embedding(y)
        return tail(tap('site', feature, tail, AFANSettings(**EXACT)))

    model = host(run)
    model.embedding = nn.Embedding(3, 6, sparse=True).double()
    before = model.embedding.weight.detach().clone()
    wrapper = optim_wrapper(model)
    model.train_step(batch(), wrapper)
    assert wrapper.num_void_updates == 1 and torch.equal(model.embedding.weight, before)
