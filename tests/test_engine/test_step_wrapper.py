"""Contracts 8 and 12: accumulation and clipping as without A-FAN, and activation checkpointing."""

import pytest
import torch
from mmengine.registry import MODELS
from mmseg.models.decode_heads import FCNHead
from torch.utils.checkpoint import checkpoint

from support.tiny import (
    HOSTS,
    assert_close,
    average,
    batch_of,
    build,
    gradients,
    gradients_at_updates,
    optim_wrapper,
    segmentor_config,
    stock_config,
    with_afan,
)

SETTINGS = dict(epsilon=0.1, num_strengths=2, strengths='linspace')
detached_or_not = pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))


def model_of(host, detach=False, config=None, **settings):
    settings = dict(SETTINGS, detach=detach, **settings)
    return build(with_afan(config or stock_config(host), neck=settings, head=settings))


def norm(gradients):
    return torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()


@detached_or_not
@pytest.mark.parametrize('host', HOSTS)
def test_accumulation(host, detach):
    """Two of three micro-steps make one update with the mean gradient, and the remaining one an
    update of its own.
    """
    model = model_of(host, detach)
    start = {name: p.clone() for name, p in model.state_dict().items()}
    wrapper = optim_wrapper(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 3)
    batches = [batch_of(host, seed=step) for step in range(3)]
    alone = [gradients(model_of(host, detach), batch) for batch in batches[:2]]
    kept = gradients_at_updates(model, wrapper, batches[:1])
    assert kept == [] and wrapper._inner_count == 1
    assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())
    kept = gradients_at_updates(model, wrapper, batches[1:2])
    assert len(kept) == 1 and wrapper._inner_count == 2
    assert_close(kept[0], average(alone))
    fresh = model_of(host, detach)
    fresh.load_state_dict(model.state_dict())
    (last,) = gradients_at_updates(model, wrapper, batches[2:])
    assert_close(last, gradients(fresh, batches[2]))
    assert wrapper._inner_count == 3


@pytest.mark.parametrize('host', HOSTS)
def test_clipping(host):
    """The sum over all passes is clipped, once: it keeps its direction and gets the norm asked
    for.
    """
    model = model_of(host)
    (kept,) = gradients_at_updates(
        model, optim_wrapper(model, clip_grad=dict(max_norm=0.01)), [batch_of(host)]
    )
    free = gradients(model_of(host), batch_of(host))
    assert norm(free) > 0.02
    assert float(norm(kept)) == pytest.approx(0.01, rel=1e-3)
    assert_close(
        kept,
        {name: None if g is None else g * 0.01 / norm(free) for name, g in free.items()},
        atol=1e-7,
    )


class CheckpointedHead(FCNHead):
    """A head that recomputes its convolutions in the backward, with either of torch's two kinds of
    checkpoint.

    As everywhere in mmcv, mmseg and mmdet, only where the input needs a gradient: torch's
        re-entrant kind gives none otherwise.
    """

    reentrant = True

    def _forward_feature(self, inputs):
        forward = super()._forward_feature
        if not inputs[self.in_index].requires_grad:
            return forward(inputs)
        return checkpoint(lambda *levels: forward(levels), *inputs, use_reentrant=self.reentrant)


class NonReentrantHead(CheckpointedHead):
    reentrant = False


@pytest.fixture(scope='module', autouse=True)
def registered_heads():
    for head in (CheckpointedHead, NonReentrantHead):
        MODELS.register_module(module=head)
    yield
    for head in (CheckpointedHead, NonReentrantHead):
        MODELS.module_dict.pop(head.__name__)


def head_config(kind):
    """An FCN head in place of DeepLabV3+'s, of the given type."""
    config = segmentor_config(auxiliary=False)
    config.decode_head = dict(
        type=kind,
        in_channels=64,
        in_index=3,
        channels=8,
        num_convs=1,
        num_classes=5,
        dropout_ratio=0.0,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    return config


@detached_or_not
@pytest.mark.parametrize('host', HOSTS)
def test_checkpointed_backbone(host, detach):
    """mmseg and mmdet checkpoint with torch's default, re-entrant: a front that recomputes changes
    no gradient.
    """
    settings, found = dict(SETTINGS, detach=detach), []
    for with_cp in (True, False):
        config = with_afan(stock_config(host), neck=settings)
        config.backbone.update(with_cp=with_cp)
        found.append(gradients(build(config), batch_of(host)))
    ours, expected = found
    assert_close(ours, expected)
    assert ours['backbone.layer4.0.conv1.weight'].norm() > 0


@detached_or_not
def test_site_inside_a_checkpoint(detach):
    """Without gradients nothing is tapped there: the first step says so."""
    config = stock_config('segmentor')
    config.backbone.update(with_cp=True)
    site = dict(SETTINGS, site='backbone.layer3.0.conv2', detach=detach)
    with pytest.raises(
        RuntimeError, match=r"\['backbone.layer3.0.conv2'\] were not reached .*with_cp=True"
    ):
        gradients(build(with_afan(config, neck=site)), batch_of('segmentor'))


@pytest.mark.parametrize('joint', (False, True), ids=('one-site', 'joint'))
@detached_or_not
@pytest.mark.parametrize('kind', ('CheckpointedHead', 'NonReentrantHead'))
def test_checkpointed_tail(kind, detach, joint):
    """PGD-1 takes its direction from the ordinary backward, which every checkpoint supports; so it
    does for several sites together.
    """
    settings = dict(SETTINGS, detach=detach, joint=joint)
    head = settings if joint else None
    ours, expected = (
        gradients(build(with_afan(head_config(k), neck=settings, head=head)), batch_of('segmentor'))
        for k in (kind, 'FCNHead')
    )
    assert_close(ours, expected)


def test_attack_pass_through_a_checkpoint():
    """PGD-2 needs ``autograd.grad``: fine for the one kind, a clear error for the other."""
    settings = dict(SETTINGS, num_steps=2, step_size=0.06)
    expected = gradients(
        build(with_afan(head_config('FCNHead'), neck=settings)), batch_of('segmentor')
    )
    ours = gradients(
        build(with_afan(head_config('NonReentrantHead'), neck=settings)), batch_of('segmentor')
    )
    assert_close(ours, expected)
    model = build(with_afan(head_config('CheckpointedHead'), neck=settings))
    with pytest.raises(RuntimeError, match='with_cp=False.*num_steps=1'):
        gradients(model, batch_of('segmentor'))
