"""Nothing in a step waits for the device: on torch's meta device, where no value can be read, the
steps of A-FAN run all the same.
"""

import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from afan_mm.declared import declared_sites
from support.tiny import build, optim_wrapper, segmentation_batch, segmentor_config, with_afan
from support.toy import batch, host
from support.versions import runs_without_values

pytestmark = runs_without_values


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
    ),
    ids=str,
)
def test_a_step_reads_no_value(settings, generators):

    def run(model, x, y):
        def first_tail(feature):
            return second_tail(model.middle(feature))

        def second_tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(model.norm(feature)), y))

        def afan(name):
            return AFANSettings(**dict(dict(name=name, epsilon=0.1), **settings))

        first = tap('first', model.front(x), first_tail, afan('first'))
        return second_tail(tap('second', model.middle(first), second_tail, afan('second')))

    model = host(run).to('meta')
    data = {key: value.to('meta') for key, value in batch().items()}
    wrapper = optim_wrapper(model)
    for _ in range(3):
        model.train_step(data, wrapper)
    assert wrapper.num_void_updates.device.type == 'meta'  # counted there, too


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
def test_a_segmentor_reads_no_value(part, site, objective, detach, generators, monkeypatch):
    """But for the host's own accuracy figure, and in the first step whether the labels of
    predictions that are compared are the same.
    """
    monkeypatch.setattr(
        'mmseg.models.decode_heads.decode_head.accuracy', lambda *args, **kwargs: torch.zeros(())
    )
    settings = dict(site=site, detach=detach, objective=objective)
    model = build(with_afan(segmentor_config(), **{part: settings})).to('meta')
    data = model.data_preprocessor(segmentation_batch(), True)
    data['inputs'] = data['inputs'].to('meta')
    for sample in data['data_samples']:
        sample.gt_sem_seg.data = sample.gt_sem_seg.data.to('meta')
    wrapper = optim_wrapper(model)
    if objective == 'consistency':
        wrapper._checked = {settings.name for _, settings in declared_sites(model)}
    with wrapper.optim_context(model):
        loss, _ = model.parse_losses(model.loss(**data))
    wrapper.update_params(loss)
    # the adversarial passes ran, and their gradients were looked at
    assert wrapper.num_void_updates.device.type == 'meta'
