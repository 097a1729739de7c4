"""AFANHook in real Runners on a tiny segmentor: what it refuses before training, and what it reports while training."""
import json
import math
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmseg.models.segmentors import EncoderDecoder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import build, detector_config, segmentation_batch, segmentor_config, with_afan

from afan_mm import AFANHook, AFANSettings, tap
from afan_mm.engine.hooks import check_host

FIGURES = ('objective', 'gain', 'delta_norm', 'zero_share', 'nonfinite_share', 'mix_ratio')
NECK = dict(epsilon=0.3, num_strengths=2)


class Trace(Hook):
    """What each iteration that ran left behind."""

    def __init__(self):
        self.started, self.scales, self.losses, self.reports = 0, [], [], []

    def before_train_iter(self, runner, *args, **kwargs):
        self.started += 1

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scalars = runner.message_hub.log_scalars
        self.scales.append(getattr(runner.optim_wrapper, 'epsilon_scale', None))
        self.losses.append({key: value.item() for key, value in outputs.items()})
        self.reports.append({key: buffer.current() for key, buffer in scalars.items() if '/afan/' in key})


class Images(torch.utils.data.Dataset):
    """One fixed batch, over and over."""

    def __init__(self):
        self.batch = segmentation_batch()

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return dict(inputs=self.batch['inputs'][index], data_samples=self.batch['data_samples'][index])


def train(model, work_dir, max_iters=2, hook=None, optim='AFANOptimWrapper', trace=None, **kwargs):
    """A real run with a log line each iteration; returns what it left on a Trace."""
    trace = Trace() if trace is None else trace
    runner = Runner(
        model=model, work_dir=str(work_dir), experiment_name=f'run_{id(trace)}', default_scope='mmseg', log_level='INFO',
        train_dataloader=dict(dataset=Images(), batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                              collate_fn=dict(type='pseudo_collate')),
        train_cfg=dict(by_epoch=False, max_iters=max_iters), log_processor=dict(by_epoch=False, num_digits=12),
        optim_wrapper=dict(type=optim, optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        custom_hooks=[dict(type='AFANHook', interval=1) if hook is None else hook, trace],
        visualizer=dict(type='Visualizer', name=f'run_{id(trace)}',
                        vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]), **kwargs)
    runner.train()
    trace.runner = runner
    return trace


def afan_model(neck=NECK, head=None, **changes):
    config = with_afan(segmentor_config(), neck=neck, head=head)
    config.update(changes)
    return build(config)


class Deaf(BaseModel):
    """A host of its own kind that reaches its neck without extract_feat."""

    def __init__(self, neck, **kwargs):
        super().__init__()
        self.backbone, self.neck = torch.nn.Conv2d(3, 4, 1), MODELS.build(neck)

    def extract_feat(self, inputs):
        return self.neck([self.backbone(inputs)])

    def loss(self, inputs, data_samples=None):
        return dict(loss=self.neck([self.backbone(inputs)])[0].square().mean())

    def forward(self, inputs, data_samples=None, mode='loss'):
        return self.loss(torch.stack(inputs).float(), data_samples)


class DeafSegmentor(EncoderDecoder):
    """A segmentor whose own loss goes past extract_feat."""

    def loss(self, inputs, data_samples):
        return self._decode_head_forward_train(self.neck(self.backbone(inputs)), data_samples)


class MuteHost(Deaf):
    """A host that computes its losses in forward."""
    loss = None


STOPPED = dict(
    stock_wrapper=(dict(), 'OptimWrapper', RuntimeError,
                   r"A-FAN sites \(neck\), .* is OptimWrapper.*optim_wrapper=dict\(type='AFANOptimWrapper'"),
    no_sites=(None, 'AFANOptimWrapper', RuntimeError, "is AFANOptimWrapper, but the model has no A-FAN site. Use AFANNeckWrapper"),
    same_names=(dict(neck=dict(NECK, name='here'), head=dict(name='here')), 'AFANOptimWrapper', ValueError,
                r"\['neck', 'decode_head'\] are all named 'here'; write afan=dict\(name="),
    levels_too_high=(dict(neck=dict(NECK, levels=(0, 4))), 'AFANOptimWrapper', ValueError,
                     r'levels must lie in \[-4, 3\] for a feature of 4 levels, but got \(0, 4\)'),
    levels_twice=(dict(neck=dict(NECK, levels=(3, -1))), 'AFANOptimWrapper', ValueError, r'different levels, but got \(3, -1\)'),
    deaf=(dict(type=Deaf), 'AFANOptimWrapper', ValueError, 'whose loss calls extract_feat, but that of Deaf never does. Compute'),
    deaf_segmentor=(dict(type=DeafSegmentor), 'AFANOptimWrapper', ValueError, 'whose loss calls extract_feat, but that of DeafSegmentor'),
    mute=(dict(type=MuteHost), 'AFANOptimWrapper', ValueError, 'needs a host with a method loss, but MuteHost has none'))


@pytest.mark.parametrize('case', STOPPED)
def test_run_is_stopped_before_its_first_iteration(case, tmp_path):
    changes, optim, kind, message = STOPPED[case]
    model = build(segmentor_config()) if changes is None else afan_model(**changes)
    trace = Trace()
    with pytest.raises(kind, match=message):
        train(model, tmp_path, optim=optim, trace=trace)
    assert trace.started == 0


def test_levels_of_a_neck_output_are_checked(tmp_path):
    neck = dict(type='AFANNeckWrapper', base='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4,
                afan=dict(NECK, site='output', levels=(4, )))
    trace = Trace()
    with pytest.raises(ValueError, match=r'levels must lie in \[-4, 3\]'):
        train(build(dict(segmentor_config(), neck=neck)), tmp_path, trace=trace)
    assert trace.started == 0


class Derived(EncoderDecoder):
    def loss(self, inputs, data_samples):
        return super().loss(inputs, data_samples)


class DerivedByName(EncoderDecoder):
    def loss(self, inputs, data_samples):
        return EncoderDecoder.loss(self, inputs, data_samples)


class ByMethod(EncoderDecoder):
    def loss(self, inputs, data_samples):
        return self._decode_head_forward_train(self.features(inputs), data_samples)

    def features(self, inputs):
        return self.extract_feat(inputs)


class ByClosure(Deaf):
    def loss(self, inputs, data_samples=None):
        def features():
            return self.extract_feat(inputs)

        return dict(loss=features()[0].square().mean())


@pytest.mark.parametrize('host', (EncoderDecoder, Derived, DerivedByName, ByMethod, ByClosure))
def test_host_that_calls_extract_feat_is_accepted(host):
    model = afan_model(type=host)
    check_host(model, model.neck)


def test_hook_left_in_a_stock_run(tmp_path):
    """The baseline of a config that inherits the hook trains, and reports nothing."""
    trace = train(build(segmentor_config()), tmp_path, max_iters=1, optim='OptimWrapper')
    assert trace.started == len(trace.losses) == 1 and trace.reports == [{}]


@pytest.mark.parametrize('component, base, kind, message', (
    ('AFANDecodeHead', 'DepthwiseSeparableASPPHed', KeyError, "got 'DepthwiseSeparableASPPHed'; did you mean 'DepthwiseSeparableASPPHead'"),
    ('AFANDecodeHead', 'Zzzzzz', KeyError, "base must be the type of a registered model, but got 'Zzzzzz'"),
    ('AFANDecodeHead', 'ResNet', TypeError, "base of AFANDecodeHead must be the type of a decode head .*BaseDecodeHead, but got 'ResNet'"),
    ('AFANDecodeHead', None, TypeError, 'base of AFANDecodeHead must be .*, but got None'),
    ('AFANRoIHead', 'RPNHead', TypeError, "base of AFANRoIHead must be the type of a RoI head .*StandardRoIHead, but got 'RPNHead'"),
    ('AFANNeckWrapper', 'FPM', KeyError, "got 'FPM'; did you mean .*'FPN'"),
    ('AFANNeckWrapper', 'AFANNeckWrapper', TypeError, "base of AFANNeckWrapper must be .* but got 'AFANNeckWrapper'"),
))
def test_wrong_base_fails_at_build(component, base, kind, message):
    with pytest.raises(kind, match=message):
        MODELS.build(dict(type=component, base=base))


@pytest.mark.parametrize('config, sites, message', (
    (segmentor_config, dict(head=dict(site='botleneck')), r"site of .* must be one of \['classifier', .*'bottleneck'.*got 'botleneck'"),
    (segmentor_config, dict(neck=dict(site='middle')), r"site must be one of \('input', 'output'\), but got 'middle'"),
    (segmentor_config, dict(neck=dict(levels=2)), 'levels must be a list of integers, but got 2'),
    (segmentor_config, dict(neck=dict(levels=())), r'levels must be a list of integers, but got \(\)'),
    (detector_config, dict(head=dict(site='vectr')), r"site must be one of \('vector', 'map'\), but got 'vectr'"),
    (detector_config, dict(head=dict(gamma=1)), r"afan has no setting \['gamma'\]; it knows .*'epsilon'"),
))
def test_wrong_site_fails_at_build(config, sites, message):
    with pytest.raises(ValueError, match=message):
        build(with_afan(config(), **sites))


@pytest.mark.parametrize('wrong', (dict(interval=0), dict(interval=2.0), dict(warmup_iters=-1), dict(warmup_iters='5')))
def test_wrong_hook_argument(wrong):
    (name, value), = wrong.items()
    with pytest.raises(ValueError, match=f'{name} of AFANHook must be an integer >= .*but got {re.escape(repr(value))}'):
        AFANHook(**wrong)


def test_sites_are_printed_and_figures_reach_every_backend(tmp_path):
    """Finite values under ``afan/<site>/<figure>`` in the json and event files; the objective has no part of them."""
    trace = train(afan_model(head=dict(num_strengths=1, name='classifier')), tmp_path)
    assert trace.scales == [1.0, 1.0]  # no warm-up unless asked for
    log = next(tmp_path.glob('*/*.log')).read_text()
    rows = [[cell.strip() for cell in re.split('[│┃|]', line)[1:]] for line in log.splitlines() if re.search('[│┃|]', line)]
    assert ['neck', 'neck', '0.3', '2 uniform', '1', 'batch', 'gradient', 'all layers'] in [row[:8] for row in rows]
    assert ['classifier', 'decode_head', '0.00157', '1 uniform'] in [row[:4] for row in rows]
    keys = {f'afan/{site}/{figure}' for site in ('neck', 'classifier') for figure in FIGURES}
    lines = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert [line['iter'] for line in lines] == [1, 2]
    events = EventAccumulator(str(next(tmp_path.glob('*/vis_data')))).Reload()
    for key in keys:
        in_events = [event.value for event in events.Scalars(key)]
        assert in_events == pytest.approx([line[key] for line in lines]) and all(map(math.isfinite, in_events))
    for line, losses in zip(lines, trace.losses):
        assert {key for key in line if 'afan' in key} == keys
        assert losses['loss'] == pytest.approx(losses['decode.loss_ce'] + losses['aux.loss_ce'])
        assert not any('afan' in key for key in losses)


@pytest.mark.parametrize('bn_stats', ('clean', 'all'))
def test_measuring_changes_nothing(bn_stats, tmp_path):
    """Reported every step or never: the same losses, parameters and batch norm statistics."""
    runs = [train(afan_model(dict(NECK, bn_stats=bn_stats)), tmp_path / str(interval), hook=dict(type='AFANHook', interval=interval))
            for interval in (1, 1000)]
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
    """It rises to one, and a run resumed after two iterations goes on as the uninterrupted one, weights included."""
    hook = dict(type='AFANHook', warmup_iters=4, interval=1)
    whole = train(afan_model(), tmp_path / 'whole', max_iters=5, hook=hook)
    assert whole.scales == [0.25, 0.5, 0.75, 1.0, 1.0]
    norms = [report['train/afan/neck/delta_norm'] / math.sqrt(1 - report['train/afan/neck/zero_share']) for report in whole.reports]
    assert [norm / norms[-1] for norm in norms] == pytest.approx(whole.scales, rel=1e-4)
    train(afan_model(), tmp_path / 'parts', max_iters=2, hook=hook)
    rest = train(afan_model(), tmp_path / 'parts', max_iters=5, hook=hook, resume=True)
    assert rest.scales == whole.scales[2:] and rest.losses == whole.losses[2:]
    states = [run.runner.model.state_dict() for run in (whole, rest)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_figures_against_independent_ones(tmp_path):
    """The norm and the zeros of epsilon times the sign of the clean gradient, of which no moments take nothing away."""
    model = afan_model()
    batch = model.data_preprocessor(segmentation_batch(), True)
    levels = model.backbone(batch['inputs'])
    clean = model.decode_head.loss(levels, batch['data_samples'], None)['loss_ce']
    gradient, = torch.autograd.grad(clean, levels[-1])
    kept = int((gradient != 0).sum())

    report = {key.split('/')[-1]: value for key, value in train(
        afan_model(dict(NECK, moments=None, strengths='linspace')), tmp_path, max_iters=1).reports[0].items()}
    assert report['delta_norm'] == pytest.approx(0.3 * math.sqrt(kept), rel=1e-5)
    assert report['zero_share'] == pytest.approx(1 - kept / gradient.numel(), abs=1e-6)
    assert report['mix_ratio'] == pytest.approx(1, rel=1e-4)
    assert report['nonfinite_share'] == 0
    with torch.no_grad():
        losses = [model.decode_head.loss([*levels[:-1], levels[-1] + ratio * 0.3 * gradient.sign()], batch['data_samples'], None)['loss_ce']
                  for ratio in (0.5, 1.0)]
    assert report['objective'] == pytest.approx(sum(losses).item() / 2, rel=1e-5)
    assert report['gain'] == pytest.approx(sum(losses).item() / 2 - clean.item(), rel=1e-3, abs=1e-5)


def test_figures_of_unperturbed_passes(tmp_path):
    """The objective is the tail's clean loss, nothing is gained, and nothing moves."""
    trace = train(afan_model(dict(NECK, perturbation='none')), tmp_path, max_iters=1)
    report = {key.split('/')[-1]: value for key, value in trace.reports[0].items()}
    assert report['objective'] == pytest.approx(trace.losses[0]['decode.loss_ce'], rel=1e-5)
    assert report['gain'] == pytest.approx(0, abs=1e-5) and report['delta_norm'] == 0 and report['zero_share'] == 1


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
    assert "100.0% of the last directions at 'broken' were not finite" in next(tmp_path.glob('*/*.log')).read_text()
