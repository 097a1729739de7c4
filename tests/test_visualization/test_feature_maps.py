"""Pictures of the features: what is captured against a formula, that nothing is touched, and what a
person gets to see.
"""

import copy
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from afan_mm.cli import targeted_images
from afan_mm.cli.feature_maps import load_model
from afan_mm.engine import AFANFeatureMapHook, feature_map_hook
from afan_mm.settings import AFANSettings
from afan_mm.utils.errors import UsageError
from afan_mm.visualization import (
    SiteFeatures,
    capture,
    choose_view,
    draw_site,
    first_sample,
    save_png,
)
from support.runs import Images, afan_model
from support.runs import train as run_training
from support.tiny import (
    HOSTS,
    assert_identical,
    batch_of,
    build,
    detection_batch,
    detector_config,
    random_streams,
    seed_everything,
    segmentation_batch,
    stock_config,
    with_afan,
)
from support.tools import load_tool

tool = load_tool('visualization/feature_maps')
EPSILON = 0.3


def test_captured_features_against_the_formula():
    """Direction and Eq. 5 written out for the segmentor, in evaluation mode; magnified before the
    moments.
    """
    model = afan_model(dict(epsilon=EPSILON, num_strengths=3)).eval()
    batch = segmentation_batch(num_samples=1)
    (found,) = capture(model.train(), batch, num_strengths=2, magnify=5)
    model.eval()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    levels = [f.detach() for f in model.backbone(data['inputs'])]
    clean = levels[-1].requires_grad_()
    loss = model.decode_head.loss(levels, data['data_samples'], None)['loss_ce']
    direction = torch.autograd.grad(loss, clean)[0].sign()
    assert found.name == 'neck' and found.strengths == [0.5, 1.0] and found.finite
    torch.testing.assert_close(found.clean, clean.detach())
    for strength, augmented, normalized in zip((0.5, 1.0), found.augmented, found.normalized):
        expected = (clean + 5 * strength * EPSILON * direction).detach()
        torch.testing.assert_close(augmented, expected)
        moments = [
            (f.mean((0, 2, 3), keepdim=True), f.var((0, 2, 3), unbiased=False, keepdim=True))
            for f in (clean, expected)
        ]
        (mean, var), (mean_adv, var_adv) = moments
        mixed = ((var_adv + 1e-5) / (var + 1e-5)).sqrt() * (clean - mean) + mean_adv
        torch.testing.assert_close(normalized, mixed.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('host', HOSTS)
def test_capture_touches_nothing(host):
    """Parameters, buffers, gradients, modes, random streams and the batch, with a frozen front and
    mixed modes.
    """
    model = build(
        with_afan(
            stock_config(host), neck=dict(epsilon=EPSILON, detach=False), head=dict(epsilon=EPSILON)
        )
    )
    model.backbone.layer1.eval()
    next(model.backbone.parameters()).requires_grad_(False)
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, index) if index % 2 else None
    batch = batch_of(host)
    untouched = copy.deepcopy(batch)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    seed_everything(3)
    before = random_streams()
    assert {f.name for f in capture(model, batch)} == {
        'neck',
        {'segmentor': 'decode_head', 'detector': 'roi_head'}[host],
    }
    assert_identical(random_streams(), before)
    assert_identical(model.state_dict(), state)
    assert modes == [module.training for module in model.modules()]
    for index, parameter in enumerate(model.parameters()):
        assert (parameter.grad == index).all() if index % 2 else parameter.grad is None
    for ours, theirs in zip(batch['data_samples'], untouched['data_samples']):
        assert ours.metainfo == theirs.metainfo
        annotations = [
            sample.get('gt_sem_seg' if host == 'segmentor' else 'gt_instances')
            for sample in (ours, theirs)
        ]
        assert_identical(*map(dict, (each.items() for each in annotations)))


def test_site_without_moments_and_unknown_sites():
    """Augmentation alone has no normalised row; a wrong name tells those there are, and levels have
    a name each.
    """
    batch = detection_batch(num_samples=1)
    model = build(
        with_afan(
            detector_config(),
            neck=dict(epsilon=EPSILON, moments=None, site='output', levels=(0, 1)),
        )
    )
    found = capture(model, batch)
    assert (
        [f.name for f in found] == ['neck[0]', 'neck[1]']
        and not found[0].normalized
        and len(found[0].augmented) == 3
    )
    picture = draw_site(
        found[0], np.zeros((30, 40, 3), np.uint8), choose_view(found[0]), 20, 'ground truth'
    )
    assert picture.shape[0] < 700  # two rows, where four would be twice as high
    assert [f.name for f in capture(model, batch, sites=['neck'])] == ['neck[0]', 'neck[1]']
    with pytest.raises(ValueError, match=r"sites must be among \['neck'\].*got \['gone'\]"):
        capture(model, batch, sites=['gone'])


def features(clean, change, extent=(1.0, 1.0)):
    """Made by hand: one strength, a known change, half of it after the normalisation."""
    settings = AFANSettings(name='made', epsilon=0.5, num_strengths=1)
    return SiteFeatures(
        'made', settings, [1.0], 1.0, clean, [clean + change], [clean + change / 2], True, extent
    )


def test_views_by_hand():
    """Channels are chosen on the clean feature, padding is left out, RoIs and vectors have forms of
    their own.
    """
    clean = torch.zeros(1, 4, 2, 3)
    clean[0, 2], clean[0, 1] = 5, torch.arange(6.0).reshape(2, 3)
    other = torch.zeros_like(clean)
    other[0, 3] = 100  # stronger here, and still not shown
    made = features(clean, other)
    mean, largest, montage = (
        choose_view(made, how, topk=2) for how in ('squeeze_mean', 'select_max', 'topk')
    )
    assert torch.equal(mean.map(clean), clean.mean(1)[0])
    assert torch.equal(largest.map(other + clean), clean[0, 2]) and largest.text == 'channel 2'
    assert (
        torch.equal(montage.map(clean), torch.cat([clean[0, 2], clean[0, 1]], 1))
        and montage.text == 'channels 2, 1'
    )
    assert choose_view(made._replace(extent=(0.5, 2 / 3)), 'select_max').map(clean).shape == (1, 2)
    vectors = torch.arange(60.0).reshape(20, 3)
    assert torch.equal(
        choose_view(features(vectors, vectors)).map(vectors), vectors[:16, [2, 1, 0]]
    )
    said = [choose_view(features(v, v)).text for v in (vectors, vectors[:1], vectors[None])]
    assert [text.partition(':')[0] for text in said] == ['rows', 'columns', 'rows']
    assert 'the first 16 RoIs' in said[0] and 'RoIs' not in ''.join(said[1:])
    rois = torch.arange(3 * 2 * 4.0).reshape(3, 2, 2, 2)
    shown = choose_view(features(rois, rois)).map(rois)
    assert (
        shown.shape == (4, 4)
        and torch.equal(shown[:2, 2:], rois[1].mean(0))
        and torch.equal(shown[2:, :2], rois[2].mean(0))
    )
    for wrong in (torch.zeros(0, 3), torch.zeros(1, 2, 3, 4, 5)):
        with pytest.raises(ValueError, match='2 to 4 axes and not be empty'):
            choose_view(features(wrong, wrong))
    with pytest.raises(ValueError, match='channels must be one of .*but got .all'):
        choose_view(made, 'all')


def test_one_scale_for_all_maps(monkeypatch):
    """Equal values have equal colours in every map of the picture, and the differences are drawn on
    one symmetric range.
    """
    from afan_mm.visualization import feature_maps

    ranges, maps = [], []
    show = feature_maps._show

    def spy(axes, picture, caption, **options):
        maps.append((caption, picture))
        ranges.append((options.get('vmin'), options.get('vmax')))
        show(axes, picture, caption, **options)

    monkeypatch.setattr(feature_maps, '_show', spy)
    clean = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    made = features(clean, torch.tensor([[[[0.0, 0.0], [0.0, 3.0]]]]))
    picture = draw_site(
        made, np.full((20, 20, 3), 128, np.uint8), choose_view(made), 1, 'ground truth'
    )
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.std() > 0
    named = dict(maps)
    clean_map = named['clean feature']
    augmented, normalised = (
        next(m for name, m in maps if name.startswith(f'{kind},'))
        for kind in ('augmented', 'normalised')
    )
    for other in (augmented, normalised):  # all but the last element is unchanged
        assert np.array_equal(clean_map[:, :100], other[:, :100]) and not np.array_equal(
            clean_map[-1, -1], other[-1, -1]
        )
    assert not np.array_equal(augmented[-1, -1], normalised[-1, -1])
    assert ranges[-2:] == [(-3.0, 3.0)] * 2
    assert np.array_equal(
        next(m for name, m in maps if name.startswith('normalised - clean')), [[0, 0], [0, 1.5]]
    )


def test_hook_changes_nothing_and_draws(tmp_path):
    """Four iterations with and without it end alike to the bit; the pictures of iterations 2 and 4
    reach the backend.
    """
    runs = []
    for name in ('with', 'without'):
        hook = dict(
            type='AFANFeatureMapHook', interval=2 if name == 'with' else 100, num_strengths=1
        )
        seed_everything(0)
        trace = run_training(
            afan_model(head=dict(epsilon=EPSILON)), tmp_path / name, max_iters=4, hook=hook
        )
        runs.append(
            (
                trace.losses,
                trace.runner.model.state_dict(),
                random_streams(),
                {n: p.grad for n, p in trace.runner.model.named_parameters() if p.grad is not None},
                [m.training for m in trace.runner.model.modules()],
            )
        )
    (losses, state, streams, grads, modes), expected = runs
    assert losses == expected[0] and modes == expected[4]
    for ours, theirs in zip((state, streams, grads), expected[1:4]):
        assert_identical(ours, theirs)
    drawn = sorted(path.name for path in (tmp_path / 'with').glob('*/vis_data/vis_image/*.png'))
    assert drawn == [
        f'afan_{site}_{step}.png' for site in ('decode_head', 'neck') for step in (2, 4)
    ]
    assert not list((tmp_path / 'without').glob('*/vis_data/vis_image/*.png'))


def test_hook_is_given_the_first_sample_and_the_warm_up(tmp_path, monkeypatch):
    """It captures the first image alone, with the current scale of epsilon."""
    seen = []
    monkeypatch.setattr(
        feature_map_hook,
        'capture',
        lambda model, batch, *args, **kwargs: seen.append((batch, args)) or [],
    )
    run_training(
        afan_model(),
        tmp_path,
        max_iters=2,
        hook=dict(type='AFANFeatureMapHook', interval=1, sites=['neck']),
    )
    expected = first_sample(Images().batch)
    for batch, args in seen:
        assert (
            torch.equal(batch['inputs'][0], expected['inputs'][0])
            and len(batch['inputs']) == len(batch['data_samples']) == 1
        )
        assert args == (None, 20.0, ['neck'], 1.0)
    assert len(seen) == 2


@pytest.mark.parametrize(
    'argument',
    (
        'interval=0',
        'num_strengths=0',
        'topk=0',
        'alpha=0',
        'alpha=1.5',
        'magnify=0',
        "channels='all'",
        "sites='neck'",
    ),
)
def test_hook_refuses(argument):
    key, value = argument.split('=')
    with pytest.raises((TypeError, ValueError), match=f'{key} of AFANFeatureMapHook must be'):
        AFANFeatureMapHook(**{key: eval(value)})


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A tiny detector and segmentor with data and checkpoints on the disk."""
    root = tmp_path_factory.mktemp('project')
    generator = np.random.default_rng(0)
    for folder in ('JPEGImages', 'SegmentationClass', 'Annotations'):
        (root / 'data' / folder).mkdir(parents=True)
    for name in ('a', 'b'):
        cv2.imwrite(
            str(root / 'data' / 'JPEGImages' / f'{name}.png'),
            generator.integers(0, 256, (40, 60, 3), dtype=np.uint8),
        )
        cv2.imwrite(
            str(root / 'data' / 'SegmentationClass' / f'{name}.png'),
            generator.integers(0, 5, (40, 60), dtype=np.uint8),
        )
        (root / 'data' / 'Annotations' / f'{name}.xml').write_text(
            '<annotation><size><width>60</width><height>40</height></size><object><name>c1</name><difficult>0</difficult><bndbox>'
            '<xmin>10</xmin><ymin>5</ymin><xmax>50</xmax><ymax>35</ymax></bndbox></object></annotation>'
        )
    (root / 'data' / 'val.txt').write_text('a\nb\n')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(30, 20), keep_ratio=True),
    ]
    classes = dict(classes=[f'c{i}' for i in range(5)], palette=[[i, 9 * i, 0] for i in range(5)])
    seg = dict(
        type='BaseSegDataset',
        data_root=str(root / 'data'),
        metainfo=classes,
        img_suffix='.png',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=[*pipeline, dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    )
    det = dict(
        type='XMLDataset',
        data_root=str(root / 'data') + '/',
        metainfo=classes,
        ann_file='val.txt',
        test_mode=True,
        data_prefix=dict(sub_data_root=''),
        pipeline=[
            *pipeline,
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
    )
    for host, scope, data in (('segmentor', 'mmseg', seg), ('detector', 'mmdet', det)):
        stock = stock_config(host)
        for kind, model in (
            ('stock', stock),
            ('afan', with_afan(stock, neck=dict(epsilon=EPSILON, num_strengths=2))),
        ):
            Config(
                dict(
                    default_scope=scope,
                    model=model,
                    custom_imports=dict(imports=['afan_mm'], allow_failed_imports=False),
                    val_dataloader=dict(batch_size=1, dataset=data),
                )
            ).dump(str(root / f'{kind}_{host}.py'))
        torch.save(dict(state_dict=build(stock).state_dict()), str(root / f'{host}.pth'))
    return root


def draw(monkeypatch, project, host, *arguments, kind='afan', checkpoint=None):
    files = project / f'{kind}_{host}.py', project / f'{checkpoint or host}.pth'
    monkeypatch.setattr(sys, 'argv', ['feature_maps.py', *map(str, (*files, *arguments))])
    tool.main()


def test_tool_on_annotated_segmentation(project, tmp_path, monkeypatch, capsys):
    """By number and by name; the label map is resized with the image, and a prediction stands in
    for a strange image.
    """
    draw(
        monkeypatch,
        project,
        'segmentor',
        'b.png',
        '--indices',
        0,
        '--out-dir',
        tmp_path / 'out',
        '--device',
        'cpu',
    )
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'a_neck.png',
        'b_neck.png',
    ]
    assert out.count('loss against ground truth') == 2
    picture = cv2.imread(str(tmp_path / 'out' / 'a_neck.png'))
    assert picture.shape[0] > 400 and picture.std() > 20
    (tmp_path / 'c.png').write_bytes((project / 'data' / 'JPEGImages' / 'a.png').read_bytes())
    draw(
        monkeypatch,
        project,
        'segmentor',
        tmp_path / 'c.png',
        '--out-dir',
        tmp_path / 'out',
        '--alpha',
        0.5,
        '--channels',
        'topk',
        '--num-strengths',
        1,
    )
    assert (
        'its own prediction (no annotation)' in capsys.readouterr().out
        and (tmp_path / 'out' / 'c_neck.png').exists()
    )


def test_tool_on_detection_without_annotation(project, tmp_path, monkeypatch, capsys):
    """A folder of images; the untrained detector's own boxes, or none, are the target."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'c.png').write_bytes(
        (project / 'data' / 'JPEGImages' / 'a.png').read_bytes()
    )
    for threshold, expected in (
        (0.0, 'predictions above 0 '),
        (0.99, 'its own 0 predictions above 0.99 '),
    ):
        draw(
            monkeypatch,
            project,
            'detector',
            tmp_path / 'images',
            '--out-dir',
            tmp_path / 'out',
            '--score-thr',
            threshold,
            '--num-strengths',
            1,
        )
        out = capsys.readouterr().out
        assert expected in out and ('its own 0 ' in out) == (threshold > 0)
        assert (tmp_path / 'out' / 'c_neck.png').exists()


def test_target_is_in_the_frame_of_the_input(project):
    """The pipeline halves the image: so it does the label map, though the config loads it after the
    resizing.
    """
    cfg = Config.fromfile(str(project / 'afan_segmentor.py'))
    init_default_scope('mmseg')
    model = load_model(cfg, str(project / 'segmentor.pth'), 'cpu')
    parts = targeted_images.find_parts(cfg, 'val')
    (source,) = targeted_images.find_sources(['a.png'], [], parts, True)
    batch, target = targeted_images.load(source, parts[0]['pipeline'], model, 0.3)
    labels = cv2.imread(str(project / 'data' / 'SegmentationClass' / 'a.png'), 0)
    expected = cv2.resize(labels, (30, 20), interpolation=cv2.INTER_NEAREST)
    assert target == 'ground truth' and np.array_equal(
        batch['data_samples'][0].gt_sem_seg.data[0].numpy(), expected
    )


@pytest.fixture(scope='module')
def classifier(project):
    """Two labelled images; the preprocessor beside the model, as in MMPretrain's configs."""
    (project / 'data' / 'labels.txt').write_text('a.png 1\nb.png 0\n')
    part = dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4, style='pytorch')
    neck = dict(type='AFANNeckWrapper', base='GlobalAveragePooling')
    dataset = dict(
        type='CustomDataset',
        data_root=str(project / 'data'),
        ann_file='labels.txt',
        data_prefix='JPEGImages',
        metainfo=dict(classes=['c0', 'c1', 'c2']),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(30, 20)),
            dict(type='PackInputs'),
        ],
    )
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['afan_mm'], allow_failed_imports=False),
            data_preprocessor=dict(num_classes=3, mean=[7.0], std=[64.0]),
            model=dict(
                type='ImageClassifier',
                backbone=part,
                neck=dict(neck, afan=dict(epsilon=EPSILON, site='backbone.layer1')),
                head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
            ),
            val_dataloader=dict(batch_size=1, dataset=dataset),
        )
    )
    init_default_scope('mmpretrain')
    seed_everything(0)
    weights = dict(state_dict=MODELS.build(cfg.model).state_dict())
    cfg.dump(str(project / 'afan_classifier.py'))
    torch.save(weights, str(project / 'classifier.pth'))
    return cfg


def test_tool_on_a_classifier(classifier, project, tmp_path, monkeypatch, capsys):
    """A label of the data, and the predicted one of a strange image."""
    (tmp_path / 'c.png').write_bytes((project / 'data' / 'JPEGImages' / 'a.png').read_bytes())
    out = tmp_path / 'out'
    draw(
        monkeypatch,
        project,
        'classifier',
        *('b.png', tmp_path / 'c.png', '--out-dir', out, '--device', 'cpu'),
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith('site backbone.layer1, loss against ground truth')
    assert lines[1].endswith('loss against its own prediction (no annotation)')
    assert sorted(path.name for path in out.iterdir()) == [
        'b_backbone.layer1.png',
        'c_backbone.layer1.png',
    ]


def test_label_and_pixels_of_a_classifier(classifier, project):
    """The label is that of the file, and the means beside the model are taken off."""
    init_default_scope('mmpretrain')
    model = load_model(classifier, str(project / 'classifier.pth'), 'cpu')
    parts = targeted_images.find_parts(classifier, 'val')
    (source,) = targeted_images.find_sources([], [0], parts, True)
    batch, target = targeted_images.load(source, parts[0]['pipeline'], model, 0.3)
    assert target == 'ground truth' and batch['data_samples'][0].gt_label.tolist() == [1]
    inputs = model.data_preprocessor(batch, False)['inputs']
    torch.testing.assert_close(inputs[0], (batch['inputs'][0].float() - 7) / 64)


def test_images_that_are_no_files(monkeypatch):
    """As those of MMPretrain's CIFAR10."""

    class Arrays:
        def __len__(self):
            return 1

        def get_data_info(self, index):
            return dict(img=np.zeros((2, 2, 3)), gt_label=0)

    monkeypatch.setattr(targeted_images.DATASETS, 'build', lambda part: Arrays())
    with pytest.raises(UsageError, match='--split must name data whose .* those of Arrays are not'):
        targeted_images.find_sources([], [0], [{}], True)


@pytest.mark.parametrize(
    'case',
    (
        'missing image',
        'unreadable image',
        'stock config',
        'other checkpoint',
        'folder',
        'index',
        'site',
        'none',
    ),
)
def test_tool_refuses_in_one_line(case, project, tmp_path, monkeypatch):
    """Before anything is written."""
    (tmp_path / 'broken.png').write_text('no image')
    (tmp_path / 'file').write_text('')
    out = ['--out-dir', tmp_path / 'out']
    arguments, options, message = {
        'missing image': (['gone.png', *out], {}, 'an image must be a file.*but got gone.png'),
        'unreadable image': ([tmp_path / 'broken.png', *out], {}, 'cannot read image .*broken.png'),
        'stock config': (
            ['a.png', *out],
            dict(kind='stock'),
            'no A-FAN site.*tools/convert_config.py',
        ),
        'other checkpoint': (
            ['a.png', *out],
            dict(checkpoint='detector'),
            r' \d+ missing \(backbone.*\d+ unknown \(backbone',
        ),
        'folder': (
            ['a.png', '--out-dir', tmp_path / 'file' / 'below'],
            {},
            '--out-dir must be a folder that can be written',
        ),
        'index': (['--indices', 9, *out], {}, 'indices must be from 0 to 1, but got 9'),
        'site': (['a.png', '--sites', 'gone', *out], {}, "sites must be among .'neck'"),
        'none': (out, {}, 'give images'),
    }[case]
    with pytest.raises(UsageError, match=message) as error:
        draw(monkeypatch, project, 'segmentor', *arguments, **options)
    assert '\n' not in str(error.value) and not list(tmp_path.glob('out/*'))


def test_images_are_found_before_a_model_is_built(project, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError('a model was built')

    monkeypatch.setattr('afan_mm.cli.feature_maps.build_model', refuse)
    with pytest.raises(UsageError, match='an image must be a file'):
        draw(monkeypatch, project, 'segmentor', 'gone.png', '--out-dir', tmp_path / 'out')


def test_png_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    save_png(np.zeros((4, 5, 3), np.uint8), str(tmp_path / 'new' / 'x.png'))
    assert cv2.imread(str(tmp_path / 'new' / 'x.png')).shape == (4, 5, 3)
    monkeypatch.setattr(
        'os.replace', lambda *args: (_ for _ in ()).throw(OSError(28, 'No space left on device'))
    )
    with pytest.raises(OSError, match='cannot write .*y.png: No space left'):
        save_png(np.zeros((4, 5, 3), np.uint8), str(tmp_path / 'new' / 'y.png'))
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['x.png']
