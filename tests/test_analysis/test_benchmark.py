"""The benchmark: what it compares is what it says, its meters read right, and it writes all it
promises or nothing.
"""

import functools
import json
import re
import sys
import time
from collections import Counter

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn
from torch.profiler import record_function

from afan_mm import random_batches as batches
from afan_mm.analysis.cost import meters, runs, schedules, steps, variants
from afan_mm.analysis.cost.case import Case
from afan_mm.cli import command_line
from support.exact import (
    assert_same,
    nms_in_double,  # noqa: F401  a fixture for every test here
)
from support.paths import ROOT
from support.tiny import (
    batch_of,
    build,
    detector_config,
    gradients,
    optim_wrapper,
    segmentation_batch,
    segmentor_config,
    stock_config,
    with_afan,
)
from support.tools import load_tool

benchmark = load_tool('analysis_tools/benchmark')


CPU = torch.device('cpu')
SITE = dict(epsilon=0.3, num_strengths=2)
EVERY_SEGMENTOR = [
    'stock',
    'nothing',
    'afan',
    'detached',
    'one_pass',
    'per_sample',
    'head_only',
    'joint',
    'joint_one_pass',
    'interval',
    'one_graph',
    'released',
    'pixel',
    'advprop',
]


def afan_config(host='segmentor', neck=SITE, head=SITE, **wrapper):
    """A whole config of a tiny host."""
    model = with_afan(stock_config(host), neck=neck, head=head)
    optimizer = dict(type='SGD', lr=0.01, momentum=0.9)
    return Config(
        dict(
            default_scope=dict(segmentor='mmseg', detector='mmdet')[host],
            model=model,
            optim_wrapper=dict(dict(type='AFANOptimWrapper', optimizer=optimizer), **wrapper),
        )
    )


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'tiny.py'
    afan_config().dump(str(path))
    return str(path)


@pytest.mark.parametrize(
    'path',
    [
        'deeplabv3plus/{}deeplabv3plus_r18-d8_1xb8-300_digits-96x96.py',
        'deeplabv3plus/{}deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py',
        'faster_rcnn/{}faster-rcnn_r18_fpn_1xb4-280_digits.py',
        'faster_rcnn/{}faster-rcnn_r50-caffe-c4_1xb8-11250_voc07.py',
        'resnet/{}resnet20s_1xb128-200e_cifar10.py',
    ],
)
def test_stock_twin_is_the_stock_config(path):
    ours, stock = (
        Config.fromfile(str(ROOT / 'configs' / path.format(prefix))) for prefix in ('afan_', '')
    )
    before = ours.model.to_dict()
    twin = variants.variants_of(ours)['stock']
    assert twin.model == stock.model and ours.model.to_dict() == before
    assert variants.wrapper_config(ours, twin, 'none') == dict(
        stock.optim_wrapper, type='OptimWrapper'
    )


def test_variants_of_advprop():
    """Its stock twin has neither the site nor the norms; its own step is the configured one."""
    name = 'deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py'
    ours, stock = (
        Config.fromfile(str(ROOT / 'configs' / 'deeplabv3plus' / f'{prefix}{name}'))
        for prefix in ('advprop_', '')
    )
    found = variants.variants_of(ours)
    assert found['stock'].model == stock.model
    assert found['afan'].model == found['advprop'].model == ours.model
    assert found['nothing'].model.afan.num_strengths == 0


def test_variants_are_those_that_differ():
    assert list(variants.variants_of(afan_config())) == EVERY_SEGMENTOR
    detached = dict(SITE, detach=True)
    assert 'detached' not in variants.variants_of(afan_config(neck=detached, head=detached))
    assert 'head_only' not in variants.variants_of(afan_config(neck=None))
    assert {'reuse', 'reuse_one_pass'} <= set(variants.variants_of(afan_config('detector')))
    several = [dict(SITE, site='backbone.layer3', interval=3), SITE]
    found = variants.variants_of(afan_config(neck=several))
    assert (
        found['afan'].num_steps == 3
        and found['interval'].num_steps == 4
        and found['one_pass'].num_steps == 1
    )
    assert [afan['estimator'] for afan in found['one_pass'].model.neck.afan] == ['single', 'single']
    assert found['one_pass'].model.neck.afan[0]['site'] == 'backbone.layer3'


def test_wrappers_keep_what_they_know():
    cfg = afan_config(
        clip_grad=dict(max_norm=1.0), accumulative_counts=4, afan_seed=3, clean_weight=0.7
    )
    found = variants.variants_of(cfg)
    kept = dict(optimizer=cfg.optim_wrapper.optimizer, clip_grad=dict(max_norm=1.0))
    ours = dict(kept, afan_seed=3, clean_weight=0.7)
    assert variants.wrapper_config(cfg, found['afan'], 'none') == dict(
        ours, type='AFANOptimWrapper'
    )
    assert variants.wrapper_config(cfg, found['pixel'], 'none') == dict(type='OptimWrapper', **kept)
    amp = dict(dtype='bfloat16', loss_scale=1.0)
    assert variants.wrapper_config(cfg, found['nothing'], 'bf16') == dict(
        ours, type='AFANAmpOptimWrapper', **amp
    )
    assert variants.wrapper_config(cfg, found['one_graph'], 'bf16') == dict(
        type=schedules.ONE_GRAPH[1], **amp, **kept
    )


@pytest.mark.parametrize('host', ['segmentor', 'detector'])
@pytest.mark.parametrize('detach', [True, False], ids=['detached', 'attached'])
@pytest.mark.parametrize(
    'changes',
    [
        dict(),
        dict(num_steps=2, step_size=0.2, epsilon_unit='std', moments='instance', adv_weight=0.7),
        dict(detach_context=False, normalized=[False, True], unbiased=True),
    ],
    ids=['plain', 'other', 'context'],
)
def test_one_graph_has_the_gradients_of_afan(host, detach, changes):
    """So the two are compared at equal work."""
    site = dict(dict(SITE, detach=detach), **changes)
    head = dict(site, moments='batch')  # a vector has no instances
    model = build(with_afan(stock_config(host), neck=site, head=head)).double()
    batch = batch_of(host, size=dict(segmentor=32, detector=64)[host])
    ours = gradients(model, batch)
    assert_same(gradients(model, batch, optim_wrapper(model, schedules.ONE_GRAPH[0])), ours)
    other = build(
        with_afan(stock_config(host), neck=dict(site, detach=not detach), head=head)
    ).double()
    with pytest.raises(AssertionError):
        assert_same(gradients(other, batch, optim_wrapper(other, schedules.ONE_GRAPH[0])), ours)


def gradients_of_step(model, wrapper, step, batch):
    """``.grad`` of every parameter when a step of a schedule updates."""
    model.zero_grad()
    found = {}

    def keep(optimizer, args, kwargs):
        found.update(
            {
                name: None if p.grad is None else p.grad.clone()
                for name, p in model.named_parameters()
            }
        )

    handle = wrapper.optimizer.register_step_pre_hook(keep)
    step(model, batch, wrapper)
    handle.remove()
    assert all(p.grad is None for p in model.parameters())
    return found


def test_released_schedule_does_its_work_and_has_the_gradients_of_afan():
    site = dict(SITE, detach=True, strengths='linspace')
    model = build(with_afan(segmentor_config(), neck=site, head=site)).double()
    expected = gradients(model, segmentation_batch())
    calls = Counter()
    # a tail answers the whole backbone from its tape
    for name in ('backbone.layer1', 'decode_head.conv_seg'):
        model.get_submodule(name).register_forward_hook(
            lambda *args, name=name: calls.update([name])
        )
    wrapper = optim_wrapper(model, schedules.RELEASED[0])
    assert_same(
        gradients_of_step(model, wrapper, steps.released_step, segmentation_batch()), expected
    )
    # One forward up to each of the two sites, and the clean one; the clean classifier, and an
    # attack and two strengths at each.
    assert calls == {'backbone.layer1': 3, 'decode_head.conv_seg': 1 + 2 * (1 + 2)}


@pytest.mark.parametrize('num_steps', ['1', '2'])
def test_pixel_level_training_is_clean_plus_adversarial(num_steps):
    model = build(segmentor_config()).double()
    wrapper = optim_wrapper(model, 'OptimWrapper')
    step = functools.partial(steps.pixel_step, num_steps=int(num_steps))
    ours = gradients_of_step(model, wrapper, step, segmentation_batch())

    model = build(segmentor_config()).double()
    data = model.data_preprocessor(segmentation_batch(), True)

    def loss(image):
        return model.parse_losses(model.loss(image, data['data_samples']))[0]

    clean, epsilon = data['inputs'], steps.PIXEL_EPSILON
    moved = clean
    for _ in range(int(num_steps)):
        image = moved.clone().requires_grad_()
        moved = moved + epsilon * torch.autograd.grad(loss(image), image)[0].sign()
        moved = clean + (moved - clean).clamp(-epsilon, epsilon)
    (loss(clean) + loss(moved)).backward()
    assert_same(ours, {name: p.grad for name, p in model.named_parameters()})


def test_all_variants_train_the_same_weights_and_none_moves_them():
    cfg = afan_config()
    found = variants.variants_of(cfg)
    batch = batches.random_batch(cfg, (64, 96), 2)
    stock = runs.Run('stock', found['stock'], cfg, batch, CPU, 'none')
    before = [p.clone() for p in stock.model.parameters()]
    for name in EVERY_SEGMENTOR[1:]:
        run = runs.Run(name, found[name], cfg, batch, CPU, 'none', stock)
        shared = [p for n, p in run.model.named_parameters() if 'afan_auxiliary' not in n]
        assert [id(p) for p in shared] == [id(p) for p in stock.model.parameters()]
        assert list(run()) == [name]
    assert stock.wrapper.optimizer.state
    assert all(torch.equal(p, q) for p, q in zip(before, stock.model.parameters()))


def test_passes_of_a_variant():
    cfg = afan_config(neck=dict(SITE, num_strengths=3, interval=2), head=SITE)
    found = variants.variants_of(cfg)
    run = runs.TailRun(
        'afan', found['afan'], cfg, batches.random_batch(cfg, (32, 32), 2), CPU, 'none'
    )
    assert set(run()) == {('tail', 'afan', 'neck'), ('tail', 'afan', 'decode_head')}
    expected = dict(
        nothing=(0, 0),
        afan=(1.5, 2),
        one_pass=(1, 1),
        per_sample=(1, 1),
        interval=(0.75, 0.5),
        joint=(2, 0),
        joint_one_pass=(1, 0),
        one_graph=(3, 2),
    )
    for name, (neck, head) in expected.items():
        assert run.passes(found[name]) == dict(neck=neck, decode_head=head)


@pytest.mark.parametrize('host', ['segmentor', 'detector'])
def test_random_batch_has_targets_that_the_host_knows(host):
    batch = batches.random_batch(afan_config(host), (64, 96), 3)
    assert len(batch['data_samples']) == 3 and {image.shape for image in batch['inputs']} == {
        (3, 64, 96)
    }
    for sample in batch['data_samples']:
        if host == 'segmentor':
            labels = sample.gt_sem_seg.data
            assert labels.shape == (1, 64, 96) and set(labels.unique().tolist()) <= {
                0,
                1,
                2,
                3,
                4,
                255,
            }
            assert (labels == 255).sum() == 16 * 24  # one of sixteen blocks
        else:
            boxes = sample.gt_instances.bboxes
            assert len(boxes) == 5 and boxes.min() >= 0 and (boxes[:, 2:] > boxes[:, :2]).all()
            assert boxes[:, 2].max() <= 96 and boxes[:, 3].max() <= 64


def test_no_pixel_is_ignored_where_the_loss_cannot():
    cfg = afan_config()
    cfg.model.decode_head.loss_decode.class_weight = [1.0] * 5
    (sample,) = batches.random_batch(cfg, (32, 32), 1)['data_samples']
    assert sample.gt_sem_seg.data.max() < 5


@pytest.mark.parametrize(
    'path, shape, batch_size',
    [
        ('mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py', (512, 512), 4),
        ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', (800, 1333), 2),
    ],
)
def test_defaults_on_a_gpu_are_those_of_the_config(path, shape, batch_size, tmp_path):
    (tmp_path / 'config.py').write_text(f"_base_ = '{path}'")
    cfg, gpu = Config.fromfile(str(tmp_path / 'config.py')), torch.device('cuda')
    assert (batches.default_shape(cfg, gpu), batches.default_batch_size(cfg, gpu)) == (
        shape,
        batch_size,
    )
    assert batches.default_batch_size(cfg, CPU) == 2


def test_peak_memory_is_the_largest_sum_held():

    def step():
        first = torch.empty(1000, 1000, dtype=torch.float32)
        second = torch.empty(500, 1000, dtype=torch.float32)
        del first
        third = torch.empty(300, 1000, dtype=torch.float64)
        del second, third

    assert meters.peak_memory(step, CPU) == 4 * 1000 * 1500


def test_held_memory_counts_weights_buffers_and_momentum():
    # 50 + 5 and 5 + 5 parameters; 5 + 5 floats and an int64 of buffers
    model = nn.Sequential(nn.Linear(10, 5), nn.BatchNorm1d(5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert meters.held_memory(model, optimizer) == 4 * 65 + 4 * 10 + 8
    model(torch.ones(2, 10)).sum().backward()
    optimizer.step()
    assert meters.held_memory(model, optimizer) == 2 * 4 * 65 + 4 * 10 + 8


def test_labels_are_timed_without_those_inside(monkeypatch):
    moments = iter([0.0, 1.0, 4.0, 9.0, 20.0, 36.0])
    monkeypatch.setattr(meters, 'now', lambda device: next(moments))
    clock = meters.LabelClock(CPU)
    with clock.running():
        with record_function('outer'), record_function('inner'):
            pass
        with record_function('outer'):
            pass
    assert clock.seconds == dict(outer=1.0 + 5.0 + 16.0, inner=3.0)
    with record_function('outer'):  # no longer timed: the clock would be asked once more
        pass


@pytest.mark.parametrize('threads', (1, 2))
def test_what_others_do_is_not_in_the_time_of_one_thread(threads, monkeypatch):
    monkeypatch.setattr(meters.torch, 'get_num_threads', lambda: threads)
    seconds = meters.timed(lambda: time.sleep(0.3), CPU)
    assert seconds < 0.1 if threads == 1 else seconds >= 0.3


def test_rounds_interleave_and_compare_within_a_round():
    order, speed = [], [1.0]

    def run(name, seconds):

        def call():
            order.append(name)
            if order.count('stock') % 3 == 1:
                speed[0] = 1.0 + len(order)  # another pace in each round
            return {key: value * speed[0] for key, value in seconds.items()}

        return call

    stock = run('stock', dict(stock=2.0))
    made = dict(
        stock=stock,
        a=run('a', dict(a=3.0)),
        b=run('b', dict(b=4.0)),
        tails=run('tails', {('tail', 'x'): 1.0}),
    )
    ratios, units = meters.measure_rounds(made, 'stock', rounds=4, seed=0, tick=lambda: None)
    rounds = [order[i : i + 6] for i in range(0, 24, 6)]
    assert all(sorted(names) == ['a', 'b', 'stock', 'stock', 'stock', 'tails'] for names in rounds)
    assert all(names[0] == names[-1] == 'stock' for names in rounds)
    assert len(set(map(tuple, rounds))) > 1
    assert ratios['a'] == pytest.approx([1.5] * 4) and ratios['b'] == pytest.approx([2.0] * 4)
    assert (
        ratios['tail', 'x'] == pytest.approx([0.5] * 4)
        and len(ratios['stock']) == 12
        and len(units) == 4
    )


def call(monkeypatch, *argv):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *map(str, argv)])
    command_line.run(benchmark.main)


@pytest.mark.parametrize(
    'host, wanted, rounds',
    [
        ('segmentor', 'one_pass,joint,afan', 2),
        ('detector', None, 1),
    ],
    ids=['some', 'all'],
)
def test_a_run_shows_and_writes_everything(host, wanted, rounds, tmp_path, monkeypatch, capsys):
    path = tmp_path / 'tiny.py'
    afan_config(host).dump(str(path))
    files = [tmp_path / 'cost.json', tmp_path / 'cost.png']
    options = ['--variants', wanted] if wanted else []
    options += [
        '--rounds',
        rounds,
        '--shape',
        64,
        64,
        '--device',
        'cpu',
        '--json',
        files[0],
        '--plot',
        files[1],
    ]
    call(monkeypatch, path, *options)
    found = json.loads(files[0].read_text())
    (result,) = found['results']
    names = (
        ['stock', 'afan', 'one_pass', 'joint']
        if wanted
        else list(variants.variants_of(afan_config(host)))
    )
    shown = capsys.readouterr().out
    assert list(result['variants']) == names and all(name in shown for name in names)
    assert 'benchmark.py' in found['command'] and found['versions']['torch'] == torch.__version__
    for name, row in result['variants'].items():
        assert (
            0 < row['time']['q1'] <= row['time']['median'] <= row['time']['q3']
            and row['memory'] > 0
        )
        assert len(row['ratios']) == (3 * rounds if name == 'stock' else rounds)
        assert (row['floor'] is None) == (name in ('stock', 'released', 'pixel', 'advprop'))
    tails = result['tails']['afan']
    assert result['variants']['stock']['memory'] == 1
    assert result['variants']['afan']['floor'] == pytest.approx(
        1 + sum(2 * row['time']['median'] for row in tails.values())
    )
    assert result['variants']['one_pass']['floor'] == pytest.approx(
        1 + sum(row['time']['median'] for row in tails.values())
    )
    head = dict(segmentor='decode_head', detector='roi_head')[host]
    assert set(tails) == {'neck', head} and sum(result['parts'].values()) == pytest.approx(100)
    assert {
        'clean forward',
        'clean backward',
        'directions',
        'optimizer',
        'the rest',
        f'{head}: attack',
        f'{head}: mix',
        'neck: forward',
        'neck: backward',
        'neck: health',
    } <= set(result['parts'])
    with Image.open(files[1]) as image:
        assert min(image.size) > 100 and len(set(image.convert('L').tobytes())) > 10


def test_a_classifier(tmp_path, monkeypatch):
    path, file = ROOT / 'configs/resnet/afan_resnet20s_1xb128-200e_cifar10.py', tmp_path / 'a.json'
    head = 'model.head.'
    options = [f'{head}type=AFANClsHead', f'{head}base=LinearClsHead', f'{head}afan.epsilon=0.1']
    variants_ = ['--variants', 'afan,joint_one_pass', '--rounds', 1]
    call(
        monkeypatch, path, *variants_, '--device', 'cpu', '--json', file, '--cfg-options', *options
    )
    (result,) = json.loads(file.read_text())['results']
    assert result['shape'] == [32, 32]  # as the config trains
    assert set(result['tails']['afan']) == {'neck', 'head'}
    assert list(result['variants']) == ['stock', 'afan', 'joint_one_pass']


def test_growth(config, tmp_path, monkeypatch, capsys):
    files = [tmp_path / 'cost.json', tmp_path / 'cost.png']
    call(
        monkeypatch,
        config,
        '--rounds',
        1,
        '--shape',
        32,
        32,
        '--grow',
        'num_strengths=1,8',
        '--grow',
        'shape=32,64',
        '--markdown',
        '--device',
        'cpu',
        '--json',
        files[0],
        '--plot',
        files[1],
    )
    growth = json.loads(files[0].read_text())['results'][0]['growth']
    values = {quantity: [row['value'] for row in rows] for quantity, rows in growth.items()}
    assert values == dict(num_strengths=[1, 8], shape=[32, 64])
    assert all(
        row['time']['median'] > 0 and row['memory'] > 0 for rows in growth.values() for row in rows
    )
    assert growth['shape'][0]['stock_bytes'] < growth['shape'][1]['stock_bytes']
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    assert table[0].split('|')[1].strip() == 'num_strengths' and set(table[1]) == set('|-')
    with Image.open(files[1]) as image:
        assert min(image.size) > 100


def test_growth_keeps_what_was_measured(config, tmp_path, monkeypatch, capsys):
    """DeepLab's pooled branch cannot normalise a batch of one: that value says why, and the others
    stay.
    """
    file = tmp_path / 'cost.json'
    call(
        monkeypatch,
        config,
        '--rounds',
        1,
        '--shape',
        32,
        32,
        '--grow',
        'batch_size=2,1',
        '--device',
        'cpu',
        '--json',
        file,
        '--plot',
        tmp_path / 'cost.png',
    )
    two, one = json.loads(file.read_text())['results'][0]['growth']['batch_size']
    assert two['time']['median'] > 0 and 'time' not in one
    assert 'in batches of 1: ValueError: Expected more than 1 value per channel' in one['error']
    assert 'Expected more than 1 value' in ' '.join(capsys.readouterr().out.split())


def test_growth_changes_what_it_says(config):
    case = Case(config, CPU)
    assert case.shape == (160, 160) and case.batch_size == 2
    grown = case.grown('num_strengths', 7)
    assert [
        grown.variants['afan'].model[key].afan['num_strengths'] for key in ('neck', 'decode_head')
    ] == [7, 7]
    assert case.variants['afan'].model.neck.afan['num_strengths'] == 2
    assert grown.variants['stock'].model == case.variants['stock'].model
    assert case.grown('batch_size', 5).batch_size == 5 and case.grown('shape', 64).shape == (64, 64)


@pytest.mark.parametrize(
    'options, message',
    [
        (
            '--variants afan,gone',
            '--variants must be some of stock, nothing, afan, .*, but got gone',
        ),
        (
            '--json tiny.py/cost.json',
            '--json must be a file in a folder that can be written, but got tiny',
        ),
        (
            '--plot tiny.py/cost.png',
            '--plot must be a file in a folder that can be written, but got tiny',
        ),
        ('--plot cost.txt', '--plot must end in one of .*, but got cost.txt'),
        ('--shape 16 64', 'shape must be at least 32 x 32 pixels, but got 16 x 64'),
        ('--grow shape=64,16', 'shape must be at least 32 x 32 pixels, but got 16 x 16'),
        ('--grow epsilon=1', 'must be KEY=V,V with KEY one of num_strengths, .*, but got'),
        ('--grow num_steps=1,x', "must be an integer >= 1, but got 'x'"),
        ('--rounds 0', "must be an integer >= 1, but got '0'"),
        ('--amp bf16', '--amp needs a GPU, but got a CPU'),
        ('--device gone', '--device gone cannot be used: '),
        (
            '--cfg-options model.neck.afan.num_strengths=0 model.decode_head.afan.num_strengths=0',
            'tiny.py: it has no A-FAN site; ',
        ),
        (
            '--cfg-options model.neck.afan.epsilon=-1',
            "tiny.py: cannot train 'nothing' on images of 32 x 32 in batches of 2: .*epsilon must be",
        ),
        (
            '--cfg-options default_scope=mmrotate',
            r"default_scope must be one of \('mmdet', 'mmpretrain', 'mmseg'\), but got 'mmrotate'",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    options, message, config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    device = [] if '--device' in options else ['--device', 'cpu']
    shape = [] if '--shape' in options else ['--shape', '32', '32']
    written = [] if '--json' in options else ['--json', 'written.json']
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, config, *device, *shape, *written, *options.split())
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('benchmark.py: error: ') and re.search(message, last), last
    assert [path.name for path in tmp_path.iterdir()] == ['tiny.py']


def test_a_stock_config_is_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'stock.py'
    Config(
        dict(
            default_scope='mmdet', model=detector_config(), optim_wrapper=dict(type='OptimWrapper')
        )
    ).dump(str(path))
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, path)
    assert stopped.value.code == 2
    assert (
        'stock.py: it has no A-FAN site; its model needs a component of type AFANNeckWrapper'
        in capsys.readouterr().err
    )
