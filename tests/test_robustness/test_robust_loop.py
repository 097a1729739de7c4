"""The robust evaluation in real Runners, for both hosts."""

import copy
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from afan_mm.robustness import AttackError, loop, resume
from afan_mm.robustness.pixel_attack import PixelAttack
from afan_mm.robustness.report import progress, robust_names
from afan_mm.robustness.resume import UnfinishedRun, run_key
from afan_mm.robustness.samples import describe
from afan_mm.robustness.settings import library_of
from support.digits import digits_voc
from support.robust_runs import IMAGES, config, make_data, runner_of
from support.tiny import assert_identical, hub_model

HOSTS = ('mmseg', 'mmdet')
METRIC = dict(mmseg='mIoU', mmdet='pascal_voc/mAP')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(digits_voc, tmp_path_factory.mktemp('robust') / 'digits')


@pytest.fixture(scope='module', params=HOSTS)
def host(request):
    return request.param


@pytest.fixture(scope='module')
def reference(host, data, tmp_path_factory):
    """A whole run: its work folder and its metrics."""
    work_dir = tmp_path_factory.mktemp(f'{host}_reference')
    return work_dir, runner_of(config(host, data, work_dir)).test()


@pytest.fixture
def attacks(monkeypatch):
    """The names of the images that were attacked."""
    names, stock = [], PixelAttack.__call__
    monkeypatch.setattr(
        PixelAttack,
        '__call__',
        lambda self, batch, given=None: names.extend(given or ['?']) or stock(self, batch, given),
    )
    return names


def kind(metrics, name):
    return {
        key.partition('/')[2]: value for key, value in metrics.items() if key.startswith(f'{name}/')
    }


def test_clean_figures_are_the_stock_loops(host, data, reference, tmp_path):
    cfg = config(host, data, tmp_path)
    cfg.test_cfg = dict(type='TestLoop')
    stock = runner_of(cfg).test()
    assert METRIC[host] in stock and stock[METRIC[host]] > 0
    assert_identical(kind(reference[1], 'clean'), stock)


def test_perturbed_images_give_other_figures(reference):
    assert kind(reference[1], 'clean').keys() == kind(reference[1], 'robust').keys()
    assert kind(reference[1], 'clean') != kind(reference[1], 'robust')


def test_neither_batch_size_nor_global_chance_matters(host, data, reference, tmp_path):
    """Images of several shapes, which the stock preprocessor would pad to one, or refuse; samplers
    that draw by chance.
    """
    torch.rand(5), np.random.rand(5)
    assert_identical(runner_of(config(host, data, tmp_path, batch_size=3)).test(), reference[1])


def test_zero_strength_is_clean(host, data, tmp_path):
    """And the loop can run again."""
    runner = runner_of(config(host, data, tmp_path, epsilon=0))
    metrics = runner.test()
    assert_identical(kind(metrics, 'robust'), kind(metrics, 'clean'))
    assert_identical(runner.test(), metrics)


def test_figures_go_everywhere(host, reference):
    work_dir, metrics = reference
    plain = {key: float(value) for key, value in metrics.items()}
    report = json.loads((work_dir / 'robust.json').read_text())
    assert report['protocol'] == dict(
        attack='pgd', num_steps=2, step_size=4 / 255, epsilon=8 / 255, random_start=False, seed=0
    )
    assert report['clean'] == kind(plain, 'clean') and report['robust'] == kind(plain, 'robust')
    assert (report['num_images'], report['num_nonfinite'], report['checkpoint']) == (
        IMAGES,
        0,
        None,
    )
    (stock,) = work_dir.glob('*/*.json')
    assert {k: v for k, v in json.loads(stock.read_text()).items() if 'time' not in k} == plain
    (backend,) = work_dir.glob('*/vis_data/*.json')
    assert {k: v for k, v in json.loads(backend.read_text()).items() if k != 'step'} == plain
    (log,) = work_dir.glob('*/*.log')
    text = log.read_text()
    assert (
        'PGD-2, step 4/255, epsilon 8/255; ground truth is in the frame of the original image'
        in text
    )
    clean, robust = plain[f'clean/{METRIC[host]}'], plain[f'robust/{METRIC[host]}']
    row = next(line for line in text.splitlines() if line.startswith(f'│ {METRIC[host]}'))
    assert [cell.strip() for cell in row.split('│')[2:5]] == [
        f'{clean:.4g}',
        f'{robust:.4g}',
        f'{robust - clean:+.4g}',
    ]
    assert sorted(
        path.name for path in work_dir.iterdir() if path.is_file() and path.suffix != '.py'
    ) == ['robust.json']


class Interrupted(Exception):
    """Stands for a job that is killed."""


def interrupt(runner, after):
    stock = runner.test_loop.run_iter

    def run_iter(idx, data_batch):
        if idx == after:
            raise Interrupted
        stock(idx, data_batch)

    runner.test_loop.run_iter = run_iter
    with pytest.raises(Interrupted):
        runner.test()


def named(attacks):
    """Less the image that is tried before each run."""
    return [name[:9] for name in attacks if name != '?']


def test_resume(host, data, reference, attacks, tmp_path):
    """Killed at the fourth of five batches, saved after the second; neither of these two is
    computed again.
    """
    interrupt(runner_of(config(host, data, tmp_path, save_interval=2)), 3)
    assert named(attacks) == ['val_00000', 'val_00001', 'val_00002']
    assert (tmp_path / 'unfinished_robust_0.pkl').exists() and not (
        tmp_path / 'robust.json'
    ).exists()
    attacks.clear()
    assert_identical(runner_of(config(host, data, tmp_path, save_interval=2)).test(), reference[1])
    assert named(attacks) == ['val_00002', 'val_00003', 'val_00004']
    assert [path.name for path in tmp_path.glob('*robust*')] == ['robust.json']
    assert any(
        'goes on after 2 images of an interrupted run' in path.read_text()
        for path in tmp_path.glob('*/*.log')
    )


def test_another_run_does_not_resume(data, attacks, tmp_path):
    """What was saved with other settings is replaced, and the log says so."""
    interrupt(runner_of(config('mmdet', data, tmp_path, save_interval=1)), 2)
    attacks.clear()
    runner_of(config('mmdet', data, tmp_path, seed=1)).test()
    assert len(named(attacks)) == IMAGES
    assert any(
        'is of another run, and is replaced' in path.read_text()
        for path in tmp_path.glob('*/*.log')
    )


@pytest.mark.parametrize('change', (dict(indices=[1, 3]), dict(pipeline_scale=(56, 56))), ids=str)
def test_other_images_of_the_same_number_are_another_run(change, data, attacks, tmp_path):
    """Also where the runner's config says nothing of them, as that of an experiment; and, of what
    is built already, by the images themselves.
    """

    def runner(indices=(0, 2), pipeline_scale=(48, 48)):
        cfg = config('mmseg', data, tmp_path, save_interval=1)
        cfg.test_dataloader.dataset.indices = list(indices)
        cfg.test_dataloader.dataset.pipeline[1].scale = pipeline_scale
        runner = runner_of(cfg)
        runner.cfg.pop('test_dataloader'), runner.cfg.pop('test_evaluator')
        if 'indices' in change:
            runner._test_dataloader = runner.build_dataloader(runner._test_dataloader)
        return runner

    interrupt(runner(), 1)
    attacks.clear()
    runner(**change).test()
    seen = change.get('indices', (0, 2))
    assert named(attacks) == [f'val_{index:05d}' for index in seen]


def test_images_are_known_by_content_and_other_datasets_by_their_size():
    class Images(list):
        def get_data_info(self, index):
            return dict(img_path=f'{self.folder}/{self[index]}', img_shape=np.array([3, 4]))

    one, moved, other = Images('ab'), Images('ab'), Images('ac')
    one.folder, moved.folder, other.folder = 'here', 'there', 'here'
    assert describe(one) == describe(moved) != describe(other)
    assert describe([1, 2]) == describe([3, 4]) != describe([1])


def test_the_key_has_the_preprocessor_beside_the_model(data, tmp_path, monkeypatch):
    """Where mmpretrain has it: other means are another evaluation."""
    keys = []
    monkeypatch.setattr(loop, 'run_key', lambda model, **about: keys.append(about['cfg']) or '')
    runner = runner_of(config('mmseg', data, tmp_path))
    runner.cfg.data_preprocessor = dict(mean=[1.0])
    runner.test_loop._resume()
    assert keys[0]['data_preprocessor'] == dict(mean=[1.0]) and keys[0]['model'] is not None


def test_run_key_names_weights_and_settings():
    model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
    key = run_key(model, epsilon=1, data=[Path])
    assert key == run_key(copy.deepcopy(model), epsilon=1, data=[Path]) and key != run_key(
        model, epsilon=2, data=[Path]
    )
    model[1].running_mean[0] = 1
    assert key != run_key(model, epsilon=1, data=[Path])


class Metric:
    def __init__(self, tmp_dir=None):
        self.results, self.tmp_dir = [], tmp_dir


class Evaluator:
    def __init__(self, *metrics):
        self.metrics = metrics


def test_unfinished_runs(tmp_path):
    path, metric = str(tmp_path / 'a.pkl'), Metric()
    run = UnfinishedRun(path, 'key', [Evaluator(metric)])
    assert run.load() is None
    metric.results.append(dict(found=np.ones(2)))
    run.save(dict(batches=3))
    kept, other = Metric(), Metric()
    assert UnfinishedRun(path, 'key', [Evaluator(kept)]).load() == dict(batches=3) and kept.results[
        0
    ]['found'].tolist() == [1, 1]
    assert UnfinishedRun(path, 'other', [Evaluator(other)]).load() is None and other.results == []
    Path(path).write_bytes(Path(path).read_bytes()[:20])
    assert run.load() is None
    run.remove()
    run.remove()
    assert list(tmp_path.iterdir()) == []


def saved_twice(path):
    """A run of one process, saved after two and after four batches."""
    metric = Metric()
    run = UnfinishedRun(str(path), 'key', [Evaluator(metric)])
    state = dict(batches=0, images=0)
    for batches in (2, 4):
        metric.results += [batches - 1, batches, batches]  # more than one a batch
        state.update(batches=batches, images=3 * batches)
        run.save(state)


@pytest.mark.parametrize(
    'others, batches, results',
    [
        ([2, 4], 4, [1, 2, 2, 3, 4, 4]),
        ([2], 2, [1, 2, 2]),  # the other process was killed before it saved again
        ([3, 2, 1], 2, [1, 2, 2]),
        ([], None, []),
        ([3], None, []),
    ],
)
def test_processes_go_on_from_the_same_batch(tmp_path, monkeypatch, others, batches, results):
    saved_twice(tmp_path / 'a.pkl')
    monkeypatch.setattr(resume, 'all_gather_object', lambda own: [own, others])
    metric = Metric()
    run = UnfinishedRun(str(tmp_path / 'a.pkl'), 'key', [Evaluator(metric)])
    expected = None if batches is None else dict(batches=batches, images=3 * batches)
    state = run.load()
    assert state == expected and metric.results == results
    if batches != 2:
        return
    state['images'] = 100  # the loop counts on
    metric.results.append(5)
    run.save(dict(batches=3))
    for others, found, kept in (([3], dict(batches=3), [1, 2, 2, 5]), ([2], expected, [1, 2, 2])):
        monkeypatch.setattr(resume, 'all_gather_object', lambda own, others=others: [own, others])
        assert UnfinishedRun(run.path, 'key', [Evaluator(metric)]).load() == found
        assert metric.results == kept


def test_a_process_without_a_file_takes_part(tmp_path, monkeypatch):
    """It would not if it returned before it asked the others."""
    asked = []
    monkeypatch.setattr(resume, 'all_gather_object', lambda own: asked.append(own) or [own, [2]])
    run = UnfinishedRun(str(tmp_path / 'gone.pkl'), 'key', [Evaluator(Metric())])
    assert run.load() is None and asked == [[]]


def test_results_in_a_temporary_folder_cannot_be_kept(tmp_path):
    run = UnfinishedRun(
        str(tmp_path / 'a.pkl'), 'key', [Evaluator(Metric(), Metric(tmp_dir=object()))]
    )
    run.save(dict(batches=1))
    assert not run.possible and run.load() is None and list(tmp_path.iterdir()) == []


def test_the_two_evaluators_write_two_files(host, data, tmp_path):
    cfg = config(host, data, tmp_path)
    if host == 'mmdet':
        cfg.test_evaluator = [
            cfg.test_evaluator,
            dict(type='DumpDetResults', out_file_path=str(tmp_path / 'found.pkl')),
        ]
    else:
        cfg.test_evaluator.update(output_dir=str(tmp_path / 'masks'), keep_results=True)
    runner_of(cfg).test()
    if host == 'mmdet':
        clean, robust = [
            pickle.loads((tmp_path / name).read_bytes())
            for name in ('found.pkl', 'found_robust.pkl')
        ]
        assert len(clean) == len(robust) == IMAGES
        assert not torch.equal(
            clean[0]['pred_instances']['bboxes'], robust[0]['pred_instances']['bboxes']
        )
    else:
        clean, robust = [
            {path.name: path.read_bytes() for path in folder.iterdir()}
            for folder in (tmp_path / 'masks', tmp_path / 'masks_robust')
        ]
        assert clean.keys() == robust.keys() and len(clean) == IMAGES and clean != robust


def test_names_of_the_second_evaluators_files():
    given = [
        dict(type='A', outfile_prefix='w/r', format_only=False),
        dict(type='B', out_file_path='a.b/c.pkl', out=3),
    ]
    assert robust_names(given) == [
        dict(type='A', outfile_prefix='w/r_robust', format_only=False),
        dict(type='B', out_file_path='a.b/c_robust.pkl', out=3),
    ]
    assert robust_names(dict(type='A')) == [dict(type='A')]
    with pytest.raises(TypeError, match='test_evaluator must be a dict or a list of dicts'):
        robust_names([Metric()])


def test_non_finite_gradients_are_counted(data, tmp_path):
    runner = runner_of(config('mmdet', data, tmp_path))
    stock = runner.model.parse_losses
    runner.model.parse_losses = lambda losses: (stock(losses)[0] * float('nan'), {})
    metrics = runner.test()
    assert_identical(kind(metrics, 'robust'), kind(metrics, 'clean'))
    assert json.loads((tmp_path / 'robust.json').read_text())['num_nonfinite'] == IMAGES
    (log,) = tmp_path.glob('*/*.log')
    assert f'the gradient of {IMAGES} of {IMAGES} images was not finite' in log.read_text()


def test_mixed_precision_is_for_predictions(data, tmp_path):
    """The stock loop's ``fp16``: the clean figures are its own, the loss of the attack stays in
    float32.
    """
    cfg = config('mmseg', data, tmp_path / 'stock')
    cfg.test_cfg = dict(type='TestLoop', fp16=True)
    stock = runner_of(cfg).test()
    runner = runner_of(config('mmseg', data, tmp_path / 'robust', fp16=True))
    kinds, parse = set(), runner.model.parse_losses
    runner.model.parse_losses = lambda losses: kinds.add(parse(losses)[0].dtype) or parse(losses)
    layer, autocast = runner.model.backbone.layer4, []
    layer.register_forward_hook(
        lambda module, inputs, output: autocast.append((torch.is_grad_enabled(), output.dtype))
    )
    assert_identical(kind(runner.test(), 'clean'), stock)
    assert kinds == {torch.float32}
    assert set(autocast) == {(False, torch.bfloat16), (True, torch.float32)}


def test_pictures(data, host, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(loop, 'draw_comparison', lambda *args: drawn.append(args))
    runner_of(
        config(host, data, tmp_path, show_dir=str(tmp_path / 'drawn'), show_interval=2, magnify=7)
    ).test()
    assert [args[-1] for args in drawn] == [
        str(tmp_path / 'drawn' / f'val_{i:05d}.png') for i in (0, 2, 4)
    ]
    meta, clean, perturbed, clean_sample, robust_sample, magnify, _ = drawn[1]
    assert (
        'classes' in meta
        and magnify == 7
        and clean.dtype == torch.float32
        and clean.shape == perturbed.shape
    )
    assert 0 < (perturbed.cpu() - clean).abs().max() <= 8
    name = 'pred_sem_seg' if host == 'mmseg' else 'pred_instances'
    assert name in clean_sample and name in robust_sample and clean_sample is not robust_sample


def drop_annotations(cfg):
    pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline = [
        step for step in pipeline if step.type != 'LoadAnnotations'
    ]


def drop_train_cfg(cfg):
    cfg.model.train_cfg = None


def use_checkpointing(cfg):
    cfg.model.backbone.with_cp = True


def add_masks(cfg):
    """Heads for masks, of which the pipeline loads none."""
    stock = hub_model('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.model.roi_head.mask_roi_extractor = dict(stock.roi_head.mask_roi_extractor, out_channels=16)
    cfg.model.roi_head.mask_head = dict(
        stock.roi_head.mask_head, in_channels=16, conv_out_channels=16, num_classes=5
    )
    cfg.model.train_cfg.rcnn.mask_size = 28


def lose_maps(cfg):
    cfg.test_dataloader.dataset.data_prefix.seg_map_path = 'gone'


def use_tta(cfg):
    cfg.model = dict(type='SegTTAModel', module=cfg.model)


def want_pixels(cfg):
    cfg.test_cfg.attack = 'cospgd'


def weigh_classes(cfg):
    """The image is padded, with pixels that are ignored."""
    cfg.model.decode_head.loss_decode.class_weight = [1.0] * 6


@pytest.mark.parametrize(
    'case, change, message',
    [
        ('mmseg', weigh_classes, r'with class_weight fails on ignored pixels.*: set class_weight='),
        ('mmseg', drop_annotations, 'the test pipeline has no LoadAnnotations'),
        ('mmdet', drop_annotations, 'the test pipeline has no LoadAnnotations'),
        (
            'mmdet',
            drop_train_cfg,
            r'the training loss of FasterRCNN cannot be computed on the test set \(.*needs its '
            r'train_cfg',
        ),
        (
            'mmdet',
            add_masks,
            'the training loss of .*masks.*must load every annotation .* such as with_mask=True',
        ),
        (
            'mmseg',
            lose_maps,
            r'the first image of the test set cannot be read with its ground truth '
            r'\(FileNotFoundError',
        ),
        ('mmdet', use_checkpointing, r'\(with_cp=True\) does not support: set with_cp=False'),
        (
            'mmdet',
            want_pixels,
            r"attack must be one of \('pgd',\) for a detector, which has no classes of pixels, "
            "but got 'cospgd'",
        ),
        ('mmseg', use_tta, 'does not work with test-time augmentation'),
    ],
    ids=[
        'weights',
        'no map',
        'no boxes',
        'no train_cfg',
        'no masks',
        'maps gone',
        'checkpointing',
        'pixels of a detector',
        'tta',
    ],
)
def test_what_cannot_be_attacked_is_said_before_anything_is_written(
    case, change, message, data, tmp_path
):
    cfg = config(case, data, tmp_path)
    change(cfg)
    with pytest.raises(AttackError, match=message) as error:
        runner_of(cfg).test()
    assert '\n' not in str(error.value)
    # the runner's own, of its start
    assert {path.suffix for path in tmp_path.rglob('*') if path.is_file()} == {'.log', '.py'}


def test_a_test_set_without_objects(data, tmp_path):
    cfg = config('mmdet', data, tmp_path)
    cfg.test_dataloader.dataset.metainfo = dict(classes=('of', 'another', 'set', 'of', 'digits'))
    with pytest.raises(AttackError, match='no image of the test set has an object'):
        runner_of(cfg).test()


@pytest.mark.parametrize(
    'key, value, message',
    [
        (
            'ground_truth',
            'resized',
            "ground_truth must be one of .None, 'input', 'original', 'stretched'., but got 'resized'",
        ),
        ('show_interval', 0, 'show_interval must be an integer >= 1, but got 0'),
        ('save_interval', 1.5, 'save_interval must be an integer >= 1, but got 1.5'),
        ('strength', 1, r"no setting \['strength'\]"),
    ],
)
def test_keys_are_checked(key, value, message, data, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        runner_of(config('mmdet', data, tmp_path, **{key: value})).test()


def test_models_of_other_libraries_are_refused():
    with pytest.raises(
        AttackError,
        match='a detector of mmdet, a segmentor of mmseg or a classifier of mmpretrain, but got Linear',
    ):
        library_of(torch.nn.Linear(1, 1))


def test_trackers_are_refused():
    """Their tests give clips, also where they train on single images."""
    from mmdet.models import ByteTrack

    with pytest.raises(AttackError, match='got ByteTrack, which follows objects through clips'):
        library_of(ByteTrack(data_preprocessor=dict(type='mmdet.TrackDataPreprocessor')))


def test_other_attacks_on_segmentors(data, tmp_path):
    metrics = runner_of(config('mmseg', data, tmp_path, attack='segpgd')).test()
    assert kind(metrics, 'clean') != kind(metrics, 'robust')
    assert json.loads((tmp_path / 'robust.json').read_text())['protocol']['attack'] == 'segpgd'


class Lines(logging.Logger):
    def __init__(self):
        super().__init__('lines')
        self.lines = []

    def info(self, line):
        self.lines.append(line.split(', ')[0])


def test_progress_without_a_terminal():
    """Batches of two, after four images of an interrupted run: at the first batch past each third
    image, and at the end.
    """
    log = Lines()
    with progress(log, total=11, done=4, interval=3) as update:
        for count in (6, 8, 10, 11):
            update(count)
    assert log.lines == [f'robust evaluation: {count}/11 images' for count in (6, 10, 11)]


def test_progress_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    log = Lines()
    with progress(log, total=4, done=1, interval=1) as update:
        update(4)
    assert log.lines == [] and '4/4' in capsys.readouterr().err
