"""What AFANHook does while training, in real Runners on a tiny segmentor: warm up, measure,
report.
"""

import json
import math
import re

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from afan_mm import AFANSettings, tap
from afan_mm.checkpoint import allow_mmengine_checkpoints
from support.runs import NECK, afan_model, train
from support.tiny import segmentation_batch

FIGURES = (
    'objective',
    'gain',
    'delta_norm',
    'relative_norm',
    'zero_share',
    'nonfinite_share',
    'mix_ratio',
)


def test_sites_are_printed_and_figures_reach_every_backend(tmp_path):
    """Finite values under ``afan/<site>/<figure>`` in the json and event files; the objective has
    no part of them.
    """
    trace = train(afan_model(head=dict(num_strengths=1, name='classifier')), tmp_path)
    assert trace.scales == [1.0, 1.0]  # no warm-up unless asked for
    log = next(tmp_path.glob('*/*.log')).read_text()
    rows = [
        [cell.strip() for cell in re.split('[│┃|]', line)[1:]]
        for line in log.splitlines()
        if re.search('[│┃|]', line)
    ]
    assert ['neck', 'neck', '0.3', '2 uniform', '1', 'batch', 'gradient', 'all layers'] in [
        row[:8] for row in rows
    ]
    assert ['classifier', 'decode_head', '0.00157', '1 uniform'] in [row[:4] for row in rows]
    assert 'one more backward' in log  # two attached sites
    keys = {f'afan/{site}/{figure}' for site in ('neck', 'classifier') for figure in FIGURES}
    lines = [
        json.loads(line)
        for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    ]
    assert [line['iter'] for line in lines] == [1, 2]
    events = EventAccumulator(str(next(tmp_path.glob('*/vis_data')))).Reload()
    for key in keys:
        in_events = [event.value for event in events.Scalars(key)]
        assert in_events == pytest.approx([line[key] for line in lines]) and all(
            map(math.isfinite, in_events)
        )
    for line, losses in zip(lines, trace.losses):
        assert {key for key in line if 'afan' in key} == keys
        assert losses['loss'] == pytest.approx(losses['decode.loss_ce'] + losses['aux.loss_ce'])
        assert not any('afan' in key for key in losses)


@pytest.mark.parametrize('bn_stats', ('clean', 'all'))
def test_measuring_changes_nothing(bn_stats, tmp_path):
    """Reported every step or never: the same losses, parameters and batch norm statistics."""
    runs = [
        train(
            afan_model(dict(NECK, bn_stats=bn_stats)),
            tmp_path / str(interval),
            hook=dict(type='AFANHook', interval=interval),
        )
        for interval in (1, 1000)
    ]
    assert runs[0].reports[-1] and not runs[1].reports[-1]
    assert runs[0].losses == runs[1].losses
    states = [run.runner.model.state_dict() for run in runs]
    assert [key for key in states[0] if not torch.equal(states[0][key], states[1][key])] == []


def test_interval(tmp_path):
    """Figures appear at every second iteration, and only there."""
    trace = train(afan_model(), tmp_path, max_iters=4, hook=dict(type='AFANHook', interval=2))
    gains = [report.get('train/afan/neck/gain') for report in trace.reports]
    assert gains[0] is None and gains[1] == gains[2] != gains[3]
    scalars = trace.runner.message_hub.log_scalars
    assert {len(scalars[f'train/afan/neck/{figure}'].data[0]) for figure in FIGURES} == {2}


def test_warm_up_is_a_function_of_the_iteration(tmp_path):
    """It rises to one, and a run resumed after two iterations goes on as the uninterrupted one,
    weights included.
    """
    hook = dict(type='AFANHook', warmup_iters=4, interval=1)
    whole = train(afan_model(), tmp_path / 'whole', max_iters=5, hook=hook)
    assert whole.scales == [0.25, 0.5, 0.75, 1.0, 1.0]
    norms = [
        report['train/afan/neck/delta_norm'] / math.sqrt(1 - report['train/afan/neck/zero_share'])
        for report in whole.reports
    ]
    assert [norm / norms[-1] for norm in norms] == pytest.approx(whole.scales, rel=1e-4)
    train(afan_model(), tmp_path / 'parts', max_iters=2, hook=hook)
    rest = train(afan_model(), tmp_path / 'parts', max_iters=5, hook=hook, resume=True)
    assert rest.scales == whole.scales[2:] and rest.losses == whole.losses[2:]
    states = [run.runner.model.state_dict() for run in (whole, rest)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_figures_against_independent_ones(tmp_path):
    """The norm and the zeros of epsilon times the sign of the clean gradient, of which no moments
    take nothing away.
    """
    model = afan_model()
    batch = model.data_preprocessor(segmentation_batch(), True)
    levels = model.backbone(batch['inputs'])
    clean = model.decode_head.loss(levels, batch['data_samples'], None)['loss_ce']
    (gradient,) = torch.autograd.grad(clean, levels[-1])
    kept = int((gradient != 0).sum())

    report = {
        key.split('/')[-1]: value
        for key, value in train(
            afan_model(dict(NECK, moments=None, strengths='linspace')), tmp_path, max_iters=1
        )
        .reports[0]
        .items()
    }
    assert report['delta_norm'] == pytest.approx(0.3 * math.sqrt(kept), rel=1e-5)
    expected = 0.3 * math.sqrt(kept) / levels[-1].norm().item()
    assert report['relative_norm'] == pytest.approx(expected, rel=1e-5)
    assert report['zero_share'] == pytest.approx(1 - kept / gradient.numel(), abs=1e-6)
    assert report['mix_ratio'] == pytest.approx(1, rel=1e-4)
    assert report['nonfinite_share'] == 0
    with torch.no_grad():
        losses = [
            model.decode_head.loss(
                [*levels[:-1], levels[-1] + ratio * 0.3 * gradient.sign()],
                batch['data_samples'],
                None,
            )['loss_ce']
            for ratio in (0.5, 1.0)
        ]
    assert report['objective'] == pytest.approx(sum(losses).item() / 2, rel=1e-5)
    assert report['gain'] == pytest.approx(
        sum(losses).item() / 2 - clean.item(), rel=1e-3, abs=1e-5
    )


def test_figures_of_unperturbed_passes(tmp_path):
    """The objective is the tail's clean loss, nothing is gained, and nothing moves."""
    trace = train(afan_model(dict(NECK, perturbation='none')), tmp_path, max_iters=1)
    report = {key.split('/')[-1]: value for key, value in trace.reports[0].items()}
    assert report['objective'] == pytest.approx(trace.losses[0]['decode.loss_ce'], rel=1e-5)
    assert (
        report['gain'] == pytest.approx(0, abs=1e-5)
        and report['delta_norm'] == report['relative_norm'] == 0
        and report['zero_share'] == 1
    )


class Broken(BaseModel):
    """A user's own site, with a finite loss whose gradient at the feature is 0 * inf."""

    def __init__(self):
        super().__init__()
        self.layer, self.afan = torch.nn.Conv2d(3, 4, 1), AFANSettings(name='broken')

    def forward(self, inputs, data_samples=None, mode='loss'):
        def tail(feature):
            return dict(loss=self.layer(feature).square().mean() + (0 * feature).sqrt().sum())

        return tail(tap('broken', torch.stack(inputs).float() / 255, tail, self.afan))


def test_skipped_directions_are_counted_and_warned_of(tmp_path):
    """Those of all steps since the last report."""
    trace = train(Broken(), tmp_path, max_iters=2, hook=dict(type='AFANHook', interval=2))
    assert trace.reports[0] == {} and trace.reports[1]['train/afan/broken/nonfinite_share'] == 1.0
    assert (
        "100.0% of the last directions at 'broken' were not finite"
        in next(tmp_path.glob('*/*.log')).read_text()
    )


@pytest.mark.parametrize(
    'afan, warned',
    (
        (dict(epsilon=4.0), True),  # batch norm before the site: its features have a scale of one
        (dict(epsilon=4.0 / 255), False),
        (dict(epsilon=3.0, epsilon_unit='std'), True),
        (dict(epsilon=1.0, epsilon_unit='std'), False),
        (dict(epsilon=5.0, epsilon_unit='norm', norm='l2'), False),
    ),
)
def test_a_perturbation_larger_than_the_feature_is_told_once(afan, warned, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *args: said.append(text))
    train(afan_model(neck=dict(num_strengths=1, moments=None, **afan)), tmp_path, max_iters=2)
    told = [text for text in said if 'standard deviations of the feature' in text]
    assert len(told) == warned
    assert not warned or "at 'neck' measures" in told[0] and "'/ 255'" in told[0]


def test_a_gain_that_no_epsilon_reaches_is_told_once(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text, *args: said.append(text))
    monkeypatch.setattr('afan_mm.steering.LARGEST_FACTOR', 1.1)
    neck = dict(num_strengths=1, moments=None, target_gain=1e3)
    train(afan_model(neck=neck), tmp_path, max_iters=3)
    (told,) = [text for text in said if 'target_gain is not reached' in text]
    assert "epsilon at 'neck' is 1.1 times what was set" in told


def test_joint_sites_in_a_run(tmp_path):
    """The table tells that they share their passes, the log what the weights sum to, and every site
    has its figures; the steered epsilon is in the checkpoint.
    """
    joint = dict(NECK, joint=True, adv_weight=0.25, target_gain=0.1)
    trace = train(
        afan_model(joint, dict(joint, name='classifier')),
        tmp_path,
        optim=dict(type='AFANOptimWrapper', clean_weight='complement'),
    )
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('joint: 2 x the tail of the first of them') == 2
    assert 'one more backward' not in log
    assert 'A-FAN weights: clean 0.5 + adversarial 0.5 = 1\n' in log
    assert 'multiplies the step' not in log
    report = trace.reports[-1]
    for figure in FIGURES + ('objective',):
        for site in ('neck', 'classifier'):
            assert math.isfinite(report[f'train/afan/{site}/{figure}'])
    allow_mmengine_checkpoints()  # the fork's loader takes its classes off the list again
    saved = torch.load(tmp_path / 'iter_2.pth')['optimizer']['afan_epsilon_factors']
    assert float(saved['neck']) == pytest.approx(report['train/afan/neck/epsilon_factor'])
    assert set(saved) == {'neck'}


def test_weights_that_multiply_the_step_are_told(tmp_path):
    train(afan_model(dict(NECK, adv_weight=0.5)), tmp_path, max_iters=1)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'A-FAN weights: clean 1 + adversarial 1 = 2\n' in log
    assert 'sum to 2, which multiplies the step of plain SGD' in log
