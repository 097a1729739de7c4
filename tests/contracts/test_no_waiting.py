"""Nothing in a step waits for the device: on torch's meta device, where no value can be read, the
steps of A-FAN run all the same, and on a GPU without an operation that torch knows to wait.
"""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from afan_mm.declared import declared_sites
from support.tiny import build, optim_wrapper, segmentation_batch, segmentor_config, with_afan
from support.toy import batch, host
from support.versions import runs_without_values, with_gpu

pytestmark = runs_without_values
on_each_device = pytest.mark.parametrize('device', ('meta', pytest.param('cuda', marks=with_gpu)))


@contextmanager
def nobody_waits(device):
    """Raises at an operation that waits for a GPU; the meta device needs no help."""
    if device == 'cuda':
        torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        if device == 'cuda':
            torch.cuda.set_sync_debug_mode('default')


@pytest.fixture
def generators(monkeypatch):
    """Noise for the meta device, which has no generator of its own."""
    stock = torch.Generator
    monkeypatch.setattr(
        torch,
        'Generator',
        lambda device='cpu': stock('cpu' if torch.device(device).type == 'meta' else device),
    )


def test_reading_a_value_fails_there():
    for read in (
        torch.Tensor.item,
        bool,
        torch.Tensor.tolist,
        torch.Tensor.cpu,
        torch.Tensor.nonzero,
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(torch.ones(1, device='meta'))


@with_gpu
def test_reading_a_value_of_a_gpu_fails():
    with pytest.raises(RuntimeError, match='synchronizing'), nobody_waits('cuda'):
        torch.ones(1, device='cuda').item()


@on_each_device
@pytest.mark.parametrize(
    'settings',
    (
        dict(),
        dict(detach=True),
        dict(num_steps=3, step_size=0.1),
        dict(random_start=True),
        dict(estimator='single'),
        dict(estimator='per_sample'),
        dict(estimator='per_sample', moments=None),
        dict(moments='instance', unbiased=True),
        dict(epsilon_unit='std'),
        dict(norm='l2', epsilon_unit='norm', num_steps=3, random_start=True),
        dict(norm='l2', epsilon_unit='std', norm_over='position'),
        dict(norm='l2', perturbation='gradient+gaussian'),
        dict(perturbation='none'),
        dict(perturbation='gaussian'),
        dict(bn_stats='all'),
        dict(interval=2, strengths='linspace'),
        dict(joint=True, draws='clean', estimator='per_sample'),
        dict(target_gain=0.1, norm='l2', epsilon_unit='norm'),
    ),
    ids=str,
)
def test_a_step_reads_no_value(settings, device, generators):

    def run(model, x, y):
        def first_tail(feature):
            return second_tail(tap('second', model.middle(feature), second_tail, afan('second')))

        def second_tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(model.norm(feature)), y))

        def afan(name):
            return AFANSettings(**dict(dict(name=name, epsilon=0.1), **settings))

        return first_tail(tap('first', model.front(x), first_tail, afan('first')))

    model = host(run).to(device)
    data = {key: value.to(device) for key, value in batch().items()}
    wrapper = optim_wrapper(model)
    model.train_step(data, wrapper)  # a GPU's libraries are loaded, and may wait
    with nobody_waits(device):
        for _ in range(3):
            model.train_step(data, wrapper)
    assert wrapper.num_void_updates.device.type == device  # counted there, too


@on_each_device
@pytest.mark.parametrize(
    'part, site',
    (
        ('neck', 'input'),
        ('neck', 'backbone.layer2'),
        ('head', 'classifier'),
        ('head', 'bottleneck'),
    ),
)
@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize('objective', ('loss', 'consistency'))
def test_a_segmentor_reads_no_value(part, site, objective, detach, device, generators, monkeypatch):
    """But for the host's own accuracy figure, and in the first step whether the labels of
    predictions that are compared are the same.
    """
    monkeypatch.setattr(
        'mmseg.models.decode_heads.decode_head.accuracy', lambda *args, **kwargs: torch.zeros(())
    )
    settings = dict(site=site, detach=detach, objective=objective)
    model = build(with_afan(segmentor_config(), **{part: settings})).to(device)
    data = model.data_preprocessor(segmentation_batch(), True)
    data['inputs'] = data['inputs'].to(device)
    for sample in data['data_samples']:
        sample.gt_sem_seg.data = sample.gt_sem_seg.data.to(device)
    wrapper = optim_wrapper(model)
    if objective == 'consistency':
        wrapper._checked = {settings.name for _, settings in declared_sites(model)}

    def step():
        with wrapper.optim_context(model):
            loss, _ = model.parse_losses(model.loss(**data))
        wrapper.update_params(loss)

    step()
    with nobody_waits(device):
        step()
    # the adversarial passes ran, and their gradients were looked at
    assert wrapper.num_void_updates.device.type == device
