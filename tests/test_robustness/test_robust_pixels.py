"""PGD on raw pixels: what it may change, what it must reach, and that it leaves nothing behind."""

import ast
import copy

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from afan_mm.robustness import AttackError, AttackSettings, PixelAttack
from support.families import family_model
from support.tiny import (
    HOSTS,
    NUM_CLASSES,
    assert_identical,
    batch_of,
    build,
    detection_batch,
    detector_config,
    hub_model,
    parameters,
    random_streams,
    segmentation_batch,
    segmentor_config,
    stock_config,
)

LIBRARY = dict(segmentor='mmseg', detector='mmdet')


@pytest.fixture(scope='module')
def models():
    return {host: build(stock_config(host)).eval() for host in HOSTS}


def settings_for(host, **changes):
    return AttackSettings.for_library(
        LIBRARY[host], **{**dict(num_steps=2, step_size=3 / 255, epsilon=5 / 255), **changes}
    )


def attack(model, host, **changes):
    return PixelAttack(model, settings_for(host, **changes))


def cut(batch, index):
    return {key: [value[index]] for key, value in batch.items()}


def stock_loss(model, image, sample):
    data = model.data_preprocessor(
        dict(inputs=[image], data_samples=[copy.deepcopy(sample)]), False
    )
    return model.parse_losses(model(**data, mode='loss'))[0]


@pytest.mark.parametrize('host', HOSTS)
def test_equals_an_independent_pgd(models, host):
    """Ten lines from the definition, on the stock loss; every anchor and RoI of the tiny detector
    is sampled.
    """
    model, batch = models[host], batch_of(host)
    found = attack(model, host, num_steps=3)(batch)
    for image, sample, ours in zip(batch['inputs'], batch['data_samples'], found.images):
        clean = image.float()
        perturbed = clean.clone()
        for _ in range(3):
            perturbed.requires_grad_()
            (gradient,) = torch.autograd.grad(stock_loss(model, perturbed, sample), perturbed)
            perturbed = perturbed.detach() + 3 * gradient.sign()
            perturbed = torch.min(torch.max(perturbed, clean - 5), clean + 5).clamp(0, 255)
        assert torch.equal(ours, perturbed) and not torch.equal(ours, clean)
    assert found.finite == [True, True]


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('random_start', [False, True])
def test_stays_in_the_ball_and_the_range(models, host, random_start):
    """Also where the image is black or white, as a border that the pipeline padded is; and where
    pixels are no whole numbers.
    """
    batch = batch_of(host)
    batch['inputs'][0][:, :, -8:] = 0
    batch['inputs'][0][:, -8:] = 255
    batch['inputs'][1] = (batch['inputs'][1].float() * 0.9973).clamp(0, 255)
    found = attack(models[host], host, num_steps=4, random_start=random_start)(batch)
    for clean, perturbed in zip(batch['inputs'], found.images):
        change = perturbed - clean.float()
        assert (
            perturbed.min() >= 0 and perturbed.max() <= 255 and 3 < change.abs().max() <= 5 + 1e-4
        )
        assert perturbed.dtype == torch.float32 and perturbed.shape == clean.shape
    change = found.images[0] - batch['inputs'][0].float()
    assert (
        change.abs().max() <= 5 and (change[:, :-8, -8:] >= 0).all() and (change[:, -8:] <= 0).all()
    )
    assert change[:, :-8, -8:].any() and change[:, -8:].any()


@pytest.mark.parametrize('host', HOSTS)
def test_loss_rises_with_the_steps(models, host):
    batch = batch_of(host, num_samples=1)
    losses = [attack(models[host], host).losses(batch)]
    for num_steps in (1, 4, 16):
        one = attack(models[host], host, num_steps=num_steps, step_size=1 / 255, epsilon=16 / 255)
        losses.append(one.losses(dict(batch, inputs=one(batch).images)))
    assert all(bool(a < b) for a, b in zip(losses, losses[1:])), losses


@pytest.mark.parametrize('host', HOSTS)
def test_images_do_not_depend_on_their_batch(models, host):
    """Nor on each other's shapes, nor on how a data loader packs them."""
    batch = batch_of(host, num_samples=3, seed=1)
    batch['inputs'][1] = batch['inputs'][1][:, :24, :]
    if host == 'segmentor':
        sample = batch['data_samples'][1]
        labels = sample.gt_sem_seg.data[:, :24]
        del sample.gt_sem_seg
        sample.gt_sem_seg = segmentation_batch()['data_samples'][0].gt_sem_seg.new(data=labels)
    names = ['a', 'b', 'c']
    one = attack(models[host], host, random_start=True)
    together = one(batch, names).images
    for index in range(3):
        assert torch.equal(together[index], one(cut(batch, index), names[index:]).images[0])
    single = {key: value[2] for key, value in batch.items()}
    assert torch.equal(together[2], one(single, ['c']).images[0])
    stacked = dict(
        inputs=torch.stack(batch['inputs'][::2]), data_samples=batch['data_samples'][::2]
    )
    assert torch.equal(together[2], one(stacked, ['a', 'c']).images[1])


def sampling_detector():
    """RoIs and anchors are chosen by chance."""
    config = detector_config()
    config.train_cfg.rpn.sampler.update(num=12)
    config.train_cfg.rcnn.sampler.update(num=6)
    return build(config).eval()


def test_chance_is_the_seeds():
    """Same figure in two runs whatever the global streams; the same sample at every step; another
    for another seed.
    """
    model, batch = sampling_detector(), detection_batch(num_samples=1)
    first = attack(model, 'detector')
    perturbed = first(batch, ['a']).images[0]
    torch.rand(7)
    assert torch.equal(perturbed, attack(model, 'detector')(batch, ['a']).images[0])
    assert first.losses(batch, ['a']) == first.losses(batch, ['a'])
    assert first.losses(batch, ['a']) != first.losses(batch, ['b'])
    assert first.losses(batch, ['a']) != attack(model, 'detector', seed=1).losses(batch, ['a'])


def trace_of(model):
    """Everything that an attack might leave behind."""
    return dict(
        parameters(model),
        **random_streams(),
        flags=[module.training for module in model.modules()],
        wants=[p.requires_grad for p in model.parameters()],
        grads=[p.grad is None for p in model.parameters()],
        hooks=[
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ],
    )


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('failing', [False, True])
def test_leaves_no_trace(host, training, failing, monkeypatch):
    """Also from training mode, whose running statistics would move, with frozen layers, and after
    an exception.
    """
    model = build(
        segmentor_config(dropout=0.5) if host == 'segmentor' else detector_config()
    ).train(training)
    model.backbone.layer1.train(not training)
    next(model.parameters()).requires_grad_(False)
    batch = batch_of(host)
    expected, before = copy.deepcopy(batch), trace_of(model)
    run = attack(model, host, random_start=True)
    if failing:
        head = model.decode_head if host == 'segmentor' else model.roi_head.bbox_head
        monkeypatch.setattr(head, 'loss' if host == 'segmentor' else 'loss_and_target', broken)
        with pytest.raises(ZeroDivisionError):
            run(batch)
    else:
        run(batch)
    assert_identical(trace_of(model), before)
    assert all(torch.equal(a, b) for a, b in zip(batch['inputs'], expected['inputs']))
    assert all(same_content(a, b) for a, b in zip(batch['data_samples'], expected['data_samples']))


@pytest.mark.parametrize('host', HOSTS)
def test_a_loss_that_does_not_depend_on_the_pixels_is_no_robust_model(host, monkeypatch):
    """Unperturbed images would pass for perturbed ones."""
    model = build(segmentor_config() if host == 'segmentor' else detector_config())
    stock = model.extract_feat

    def cut(images):
        with torch.no_grad():
            return stock(images)

    monkeypatch.setattr(model, 'extract_feat', cut)
    with pytest.raises(AttackError, match='the loss must depend on the pixels, but a detach'):
        attack(model, host)(batch_of(host))


def same_content(sample, other):
    ours, expected = [copy.deepcopy(each.to_dict()) for each in (sample, other)]
    for part in (ours, expected):
        part.update(
            {
                f'{name}/{key}': str(value.tolist())
                for name, data in part.items()
                if isinstance(data, dict)
                for key, value in data.items()
                if torch.is_tensor(value)
            }
        )
        for name in [name for name, data in part.items() if isinstance(data, dict)]:
            part.pop(name)
    return ours == expected and len(ours) > 3


def broken(*args, **kwargs):
    raise ZeroDivisionError


def test_dropout_and_norms_are_in_evaluation_mode():
    """The loss of an attack is that of the model in evaluation mode, although the model is
    training.
    """
    model, batch = build(segmentor_config(dropout=0.5)), segmentation_batch(num_samples=1)
    ours = attack(model, 'segmentor').losses(batch)[0]
    model.eval()
    torch.testing.assert_close(
        ours, stock_loss(model, batch['inputs'][0], batch['data_samples'][0]), rtol=0, atol=0
    )


@pytest.mark.parametrize('host', HOSTS)
def test_images_without_objects(models, host):
    """Background still has a loss to raise; a map of ignored pixels has none, and is not moved."""
    batch = (
        detection_batch(boxes=[[], []]) if host == 'detector' else segmentation_batch(ignore=True)
    )
    found = attack(models[host], host)(batch)
    assert found.finite == [True, True]
    moved = [
        bool((image - clean.float()).any()) for image, clean in zip(found.images, batch['inputs'])
    ]
    assert moved == [host == 'detector'] * 2


@pytest.mark.parametrize('host', HOSTS)
def test_a_gradient_that_is_not_finite_is_counted(models, host, monkeypatch):
    """From the third loss on, which is the second image's first: that one stays clean."""
    model, batch, calls = models[host], batch_of(host), []
    stock = model.parse_losses

    def poisoned(losses):
        calls.append(1)
        loss, log = stock(losses)
        return (loss * float('nan') if len(calls) == 3 else loss), log

    monkeypatch.setattr(model, 'parse_losses', poisoned)
    found = attack(model, host)(batch)
    assert found.finite == [True, False] and len(calls) == 4
    assert not torch.equal(found.images[0], batch['inputs'][0].float())
    assert torch.equal(found.images[1], batch['inputs'][1].float())


def test_pixels_must_be_raw(models):
    batch = segmentation_batch()
    batch['inputs'][0] = batch['inputs'][0].float() - 128
    with pytest.raises(ValueError, match=r'raw pixels in \[0, 255\], but got \[-128'):
        attack(models['segmentor'], 'segmentor')(batch)


def test_several_versions_of_an_image_are_refused(models):
    batch = segmentation_batch()
    with pytest.raises(TypeError, match='test-time augmentation'):
        attack(models['segmentor'], 'segmentor')(
            dict(inputs=[batch['inputs']], data_samples=[batch['data_samples']])
        )


@pytest.mark.parametrize('predict_on', (None, 'student'))
def test_of_a_semi_supervised_detector_the_one_that_predicts_is_attacked(predict_on):
    """Its own loss wants images without labels as well, which no test set has."""
    model = family_model(
        'mmdet/soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    )
    if predict_on is None:
        model.semi_test_cfg.pop('predict_on')
    else:
        model.semi_test_cfg.predict_on = predict_on
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model).eval()
    nn.init.normal_(model.student.backbone.conv1.weight)  # the two are not the same
    batch = detection_batch()
    found, expected = (
        PixelAttack(each, AttackSettings.for_library('mmdet', num_steps=2))(batch).images
        for each in (model, model.student if predict_on else model.teacher)
    )
    for image, clean, same in zip(found, batch['inputs'], expected):
        assert torch.equal(image, same) and not torch.equal(image, clean.float())


def test_checkpointing_is_refused():
    config = segmentor_config()
    config.backbone.with_cp = True
    with pytest.raises(AttackError, match=r'\(with_cp=True\).*set with_cp=False'):
        attack(build(config), 'segmentor')(segmentation_batch())


def test_a_sample_needs_ground_truth(models):
    batch = detection_batch()
    del batch['data_samples'][0].gt_instances
    with pytest.raises(AttackError, match='DetDataSample of the test set has none'):
        attack(models['detector'], 'detector')(batch)


@pytest.mark.parametrize(
    'changes,message',
    [
        (
            'epsilon=9',
            r'epsilon must be a finite number in \[0, 1\], but got 9: 8 '
            r'grey levels are 8/255',
        ),
        ('epsilon=many', "epsilon must be .* but got 'many'"),
        ('epsilon=1/0', "epsilon must be .* but got '1/0'"),
        ('step_size=True', 'step_size must be .* but got True'),
        ('num_steps=0', 'num_steps must be an integer >= 1, but got 0'),
        ('random_start=1', 'random_start must be a bool, but got 1'),
        ('attack=fgsm', "attack must be one of .*'cospgd'.* but got 'fgsm'"),
        ('seed=-1', 'seed must be an integer >= 0, but got -1'),
        (
            'steps=3',
            r"no setting \['steps'\]; its attack knows \['epsilon', 'step_size', 'num_steps'",
        ),
    ],
)
def test_settings_say_what_is_wrong(changes, message):
    key, _, value = changes.partition('=')
    value = value if value in ('many', '1/0', 'fgsm') else ast.literal_eval(value)
    with pytest.raises((TypeError, ValueError), match=message):
        AttackSettings.for_library('mmseg', **{key: value})


def test_the_papers_protocols():
    """Sec. 5 and Table 6; Sec. 6 and Table 8."""
    detection, segmentation = (
        AttackSettings.for_library('mmdet'),
        AttackSettings.for_library('mmseg'),
    )
    assert str(detection) == 'PGD-10, step 0.3/255, epsilon 2/255'
    assert str(segmentation) == 'PGD-10, step 1/255, epsilon 8/255'
    assert AttackSettings.for_library(
        'mmseg', epsilon='4/255', step_size='0.5/255'
    ) == AttackSettings.for_library('mmseg', epsilon=4 / 255, step_size=0.5 / 255)
    with pytest.raises(
        AttackError,
        match=r"^attack must be one of \('pgd',\) for a detector, which has no classes of pixels, "
        "but got 'segpgd'$",
    ):
        AttackSettings.for_library('mmdet', attack='segpgd')


def thin_atss():
    """A detector that averages its normalisers over the processes."""
    model = hub_model('mmdet::atss/atss_r50_fpn_1x_coco.py')
    model.backbone.update(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    norm = dict(type='GN', num_groups=4)
    model.bbox_head.update(in_channels=16, feat_channels=16, num_classes=NUM_CLASSES, norm_cfg=norm)
    return build(model).eval()


def test_an_attack_is_that_of_its_image_alone(monkeypatch):
    """Whatever the images of the other processes are: here they count threefold."""
    model, batch = thin_atss(), cut(detection_batch(), 0)
    expected = attack(model, 'detector')(batch).images[0]
    asked = []

    def all_reduce(tensor, *args, **kwargs):
        asked.append(tensor)
        tensor.mul_(3)

    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda *args: 1)
    monkeypatch.setattr(torch.distributed, 'all_reduce', all_reduce)
    assert torch.equal(attack(model, 'detector')(batch).images[0], expected)
    assert not asked and torch.distributed.is_initialized()
    stock_loss(model, batch['inputs'][0].float(), batch['data_samples'][0])
    assert asked  # the host's own loss would have


@pytest.mark.parametrize('name', ['pgd', 'segpgd', 'cospgd'])
def test_another_ignored_label(name):
    """What the preprocessor pads is not counted, whatever label stands for that."""
    cfg = segmentor_config()
    cfg.decode_head.ignore_index = cfg.auxiliary_head.ignore_index = 254
    cfg.data_preprocessor.test_cfg = dict(size_divisor=32)
    batch = cut(segmentation_batch(num_samples=1, size=40), 0)
    labels = batch['data_samples'][0].gt_sem_seg.data
    labels[labels == 255] = 254
    found = attack(build(cfg).eval(), 'segmentor', attack=name)(batch)
    assert found.finite == [True] and not torch.equal(found.images[0], batch['inputs'][0].float())


@pytest.mark.parametrize('name', ['segpgd', 'cospgd'])
def test_a_head_that_returns_more_while_it_trains(name):
    """The prediction that is attacked is that of the deployed model."""
    cfg = hub_model('mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py')
    cfg.backbone.update(channels=4, ppm_channels=4, norm_cfg=dict(type='BN'), init_cfg=None)
    cfg.decode_head.update(in_channels=16, channels=8, num_classes=3, norm_cfg=dict(type='BN'))
    for loss in cfg.decode_head.loss_decode:
        loss.update(class_weight=None)
    model = build(cfg).eval()
    batch = cut(segmentation_batch(num_samples=1, size=64), 0)
    found = attack(model, 'segmentor', attack=name, num_steps=1)(batch)
    assert (found.images[0] - batch['inputs'][0].float()).abs().max() == 3
