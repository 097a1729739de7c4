"""Curvature of real models: against a Hessian written out, against PyHessian, and what is left out
where an operator has no second derivative.
"""

import copy
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from scipy.integrate import trapezoid
from scipy.sparse.linalg import ArpackNoConvergence
from torch import nn

from afan_mm.analysis import commands
from afan_mm.analysis.checkpoints import build_model
from afan_mm.analysis.curvature import CurvatureSettings, losses_tail, measure_curvature
from afan_mm.analysis.curvature_report import curvature_notes, curvature_table, draw_density
from afan_mm.analysis.hessian import HessianOperator
from afan_mm.analysis.landscape import measure_landscape
from afan_mm.analysis.losses import FixedLosses, annotated, take_batches
from afan_mm.analysis.sharpness import SharpnessSettings, image_sharpness
from afan_mm.analysis.spectrum import largest_eigenvalues
from support.paths import REAL_DATA
from support.runs import Images
from support.tiny import (
    HOSTS,
    assert_identical,
    batch_of,
    build,
    optim_wrapper,
    parameters,
    random_streams,
    seed_everything,
    segmentation_batch,
    stock_config,
    with_afan,
)


def losses_of(host='segmentor', num_batches=2, **afan):
    config = with_afan(stock_config(host), **afan)
    model = build(config)
    warm_up(model, batch_of(host))
    return FixedLosses(model, [batch_of(host, seed=seed) for seed in range(num_batches)])


@torch.no_grad()
def warm_up(model, batch):
    """Running statistics as of a trained model."""
    for _ in range(10):
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        model._run_forward(data, mode='loss')


@pytest.mark.parametrize('host', HOSTS)
def test_the_same_loss_in_every_call(host):
    """Random draws and data included; dropout off, statistics and streams untouched, flags kept."""
    model = build(stock_config(host))
    if host == 'detector':  # now RoIs are drawn by chance
        model.roi_head.bbox_sampler.num = 6
    losses = FixedLosses(model, [batch_of(host, seed=s, num_samples=s + 1) for s in range(2)])
    assert losses.weights == [1 / 3, 2 / 3] and losses.num_images == 3
    seed_everything(5)
    before = parameters(model)
    with losses.evaluating():
        first = [float(losses(i)) for i in range(2)]
        torch.rand(7)
        assert [float(losses(i)) for i in range(2)] == first
        assert losses.mean() == pytest.approx(first[0] / 3 + 2 * first[1] / 3)
    assert all(module.training for module in model.modules())
    assert_identical(parameters(model), before)
    after = random_streams()
    seed_everything(5)
    torch.rand(7)
    for name, state in random_streams().items():
        np.testing.assert_array_equal(np.asarray(after[name]), np.asarray(state), name)
    if host == 'detector':
        other = FixedLosses(model, losses.batches, seed=9)
        with other.evaluating():
            assert float(other(0)) != first[0]


def test_an_afan_model_has_the_curvature_of_its_stock_twin():
    """A-FAN components are the stock ones outside training, so that the two can be compared."""
    found = []
    for afan in ({}, dict(neck=dict(epsilon=1.0), head={})):
        losses = losses_of(num_batches=1, **afan)
        found.append(measure_curvature(losses, CurvatureSettings(0, num_probes=2)))
    assert found[0] == found[1]


def test_checkpointed_layers_have_their_curvature():
    found = []
    for with_cp in (False, True):
        config = Config(dict(model=stock_config('segmentor'), default_scope='mmseg'))
        config.model.backbone.with_cp = with_cp
        torch.manual_seed(0)
        losses = FixedLosses(build_model(config), [batch_of('segmentor')])
        found.append(measure_curvature(losses, CurvatureSettings(0, num_probes=2)))
    assert found[0] == found[1]


def test_eval_mode_hessian_of_a_segmentor():
    """Eigenvalues and trace for the classifier alone: a softmax regression, written out."""
    losses = losses_of()
    model = losses.model
    name = 'auxiliary_head.conv_seg'
    chosen = {n: p for n, p in model.named_parameters() if n.startswith(name)}
    result = measure_curvature(losses, CurvatureSettings(2, 40), chosen)
    full = softmax_hessian(losses)
    eigenvalues = np.linalg.eigvalsh(full)[::-1]
    np.testing.assert_allclose(
        [each['value'] for each in result['eigenvalues']], eigenvalues[:2], rtol=1e-3
    )
    best = result['trace'][0]
    assert abs(best['value'] - np.trace(full)) < 3 * best['error'] < 0.2 * np.trace(full)
    assert result['parameters']['counted'] == len(full) and result['images'] == 4


def softmax_hessian(losses):
    """Of the auxiliary head's classifier. Its logits are enlarged to the size of the labels, which
    is linear: its input is enlarged instead. Times the loss weight 0.4.
    """
    head = losses.model.auxiliary_head
    seen = []
    handle = head.conv_seg.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    with losses.evaluating(), torch.no_grad():
        losses.mean()
    handle.remove()
    total = 0
    for pair in seen:
        assert pair[0].shape[-1] < 32
        x, z = (
            nn.functional.interpolate(t, (32, 32), mode='bilinear', align_corners=False)
            .permute(0, 2, 3, 1)
            .flatten(0, 2)
            .double()
            for t in pair
        )
        total = total + 0.4 * softmax_blocks(x, z, z.shape[1]) / len(seen)
    return total.numpy()


def softmax_blocks(x, z, size):
    """The Hessian of a softmax regression with inputs x and logits z: the mean of
    ``(diag(p) - p p') (x x')``, in the order of weight, bias.
    """
    p = z.softmax(1)
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    blocks = torch.einsum('nij,na,nb->iajb', inner, ones, ones) / len(x)
    last = x.shape[1]
    order = [i * (last + 1) + a for i in range(size) for a in range(last)]
    order += [i * (last + 1) + last for i in range(size)]
    return blocks.reshape(size * (last + 1), -1)[order][:, order]


def test_detector_by_its_tail():
    """RoIAlign has no second derivative: backbone and neck are out, the heads after and beside it
    in. For the classifier, the product equals that of a softmax regression.
    """
    losses = losses_of('detector', 1)
    model = losses.model
    result = measure_curvature(losses, CurvatureSettings(1, 2))
    about = result['parameters']
    assert about['operators'] == ['RoIAlignFunction']
    names = {name: p.numel() for name, p in model.named_parameters()}
    backbone = {name for name in names if name.startswith('backbone')}
    # levels of the neck that no RoI of this batch falls on are beside the operator too
    assert backbone < set(about['before']) < {n for n in names if 'head' not in n}
    assert about['left_out'] == sum(names[name] for name in about['before'])
    assert about['counted'] == sum(names.values()) - about['left_out']
    text = ' '.join(curvature_notes(result))
    assert 'TAIL ONLY' in text and 'RoIAlignFunction' in text
    head, seen = model.roi_head.bbox_head.fc_cls, []
    handle = head.register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    with losses.evaluating():
        operator = HessianOperator([lambda: losses(0)], [head.weight, head.bias])
        product = operator @ np.eye(operator.shape[0])
    handle.remove()
    (x, z), size = [t.detach().double() for t in seen[0]], head.out_features
    np.testing.assert_allclose(product, softmax_blocks(x, z, size).numpy(), rtol=1e-3, atol=1e-6)


def tiny_transformer():
    """A vision transformer of mmpretrain in float64, with weights that all matter."""
    from mmpretrain.structures import DataSample

    sizes = dict(embed_dims=4, num_layers=2, num_heads=2, feedforward_channels=5)
    config = dict(
        type='ImageClassifier',
        data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=3, mean=[127], std=[64]),
        backbone=dict(type='VisionTransformer', arch=sizes, img_size=4, patch_size=2),
        neck=dict(type='AFANNeckWrapper', base=None, afan=dict(epsilon=0.1)),
        head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=4),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config).double()
    # the preprocessor's images are in float32
    model.backbone.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    images = torch.randint(0, 256, (2, 3, 4, 4)).to(torch.uint8)
    samples = [DataSample().set_gt_label(label) for label in (0, 2)]
    return model, dict(inputs=list(images), data_samples=samples)


def test_attention():
    """The fused kernels of torch's attention have no second derivative: against the whole Hessian
    of the same transformer whose attention is written out.
    """
    from mmpretrain.models.utils.attention import MultiheadAttention
    from mmpretrain.models.utils.attention import scaled_dot_product_attention_pyimpl as written_out

    model, batch = tiny_transformer()
    losses = FixedLosses(model, [batch])
    settings = CurvatureSettings(3, num_probes=0, tol=1e-12)
    result = measure_curvature(losses, settings)
    assert not result['parameters']['left_out']
    for module in model.modules():
        if isinstance(module, MultiheadAttention):
            module.scaled_dot_product_attention = written_out
    weights = dict(model.named_parameters())
    flat = nn.utils.parameters_to_vector(weights.values()).detach()

    def loss(vector):
        parts = vector.split([w.numel() for w in weights.values()])
        values = {n: part.view_as(w) for (n, w), part in zip(weights.items(), parts)}
        data = model.data_preprocessor(copy.deepcopy(batch))
        arguments = (data['inputs'], data['data_samples'], 'loss')
        return torch.func.functional_call(model, values, arguments)['loss']

    with losses.evaluating():
        full = torch.autograd.functional.hessian(loss, flat)
    expected = torch.linalg.eigvalsh(full)
    expected = expected[expected.abs().argsort(descending=True)][:3].tolist()
    found = [each['value'] for each in result['eigenvalues']]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_attention_elsewhere():
    """What needs no second derivative takes torch's attention as it is: a training step, the
    landscape, and the sharpness with several steps of PGD.
    """
    model, batch = tiny_transformer()
    one = {key: each[:1] for key, each in batch.items()}
    settings = SharpnessSettings(2, 1, overrides=dict(num_steps=2))
    found = image_sharpness(model, one, settings)['neck']
    assert found.finite and found.adversarial[1] > found.adversarial[0] > found.clean
    losses = FixedLosses(model, [batch])
    surface = measure_landscape(losses, dict(a=model.state_dict()), [[0.0, 0.5]])['losses']['a']
    with losses.evaluating():
        assert surface[0] == pytest.approx(losses.mean(), rel=1e-9) and surface[1] != surface[0]
    log = model.train_step(batch, optim_wrapper(model))
    assert log['loss'].isfinite()


def test_memory_is_flat_in_the_number_of_products():
    """A product makes tens of MB: what fifty more of them keep would be seen."""
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(64, 64), nn.Tanh())])
    inputs = torch.randn(8192, 64)
    operator = HessianOperator([lambda: model(inputs).square().mean()], list(model.parameters()))
    vector = np.ones(operator.shape[0])

    def resident_after(products):
        for _ in range(products):
            operator @ vector
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') / 2**20

    ten, sixty = resident_after(10), resident_after(50)
    print(f'resident memory after 10 products {ten:.0f} MB, after 60 {sixty:.0f} MB')
    assert operator.products == 60 and sixty - ten < 100


def test_a_loss_that_is_all_before_the_operator():
    """Backbone weights alone: nothing to measure, said in one sentence."""
    losses = losses_of('detector', 1)
    chosen = {n: p for n, p in losses.model.named_parameters() if n.startswith('backbone')}
    with losses.evaluating(), pytest.raises(ValueError, match='through RoIAlignFunction'):
        losses_tail(losses, chosen)


def test_a_loss_that_is_not_finite():
    losses = losses_of(num_batches=1)
    with torch.no_grad():
        losses.model.decode_head.conv_seg.bias.fill_(float('nan'))
    with pytest.raises(ValueError, match='loss of batch 0 must be finite, but it is nan'):
        measure_curvature(losses)


def test_resume(tmp_path, monkeypatch):
    """Stopped in each stage in turn, a run ends in what one without a stop gives, bit by bit."""
    losses = losses_of(num_batches=1)
    chosen = {n: p for n, p in losses.model.named_parameters() if 'conv_seg' in n}
    settings = CurvatureSettings(2, 5, 2, 4)
    expected = measure_curvature(losses, settings, chosen)
    total = sum(expected['products'].values())
    product = HessianOperator._matvec
    computed = []

    def limited(self, vector):
        if len(computed) in stops:
            stops.remove(len(computed))
            raise KeyboardInterrupt
        computed.append(1)
        return product(self, vector)

    monkeypatch.setattr(HessianOperator, '_matvec', limited)
    lanczos = expected['products']['eigenvalues']
    stops = {3, lanczos + 2, lanczos + 7}
    while True:
        try:
            found = measure_curvature(losses, settings, chosen, work_dir=str(tmp_path))
            break
        except KeyboardInterrupt:
            pass
    assert not stops and found == expected
    assert total <= len(computed) <= total + 3  # a density's probe is begun again
    assert [path.name for path in tmp_path.rglob('*.*')] == ['state.json']  # no vector is left
    computed.clear()
    assert measure_curvature(losses, settings, chosen, str(tmp_path)) == expected and not computed
    more = measure_curvature(losses, settings._replace(num_probes=7), chosen, str(tmp_path))
    # for Hutch++ of two more probes the vectors are found again
    assert len(computed) == lanczos + 2 and more['trace'][0]['probes'] == 7
    assert more['eigenvalues'] == expected['eigenvalues']
    assert [path.name for path in tmp_path.rglob('*.*')] == ['state.json']


def test_another_loss_does_not_resume(tmp_path):
    """The settings of a loss, which no weight and no image shows, and the labels."""
    losses = losses_of(num_batches=1)
    chosen = {n: p for n, p in losses.model.named_parameters() if n.startswith('auxiliary_head')}
    chosen = {n: p for n, p in chosen.items() if 'conv_seg' in n}

    def largest(losses):
        found = measure_curvature(losses, CurvatureSettings(1, 0), chosen, str(tmp_path))
        return found['eigenvalues'][0]['value']

    first = largest(losses)
    losses.model.auxiliary_head.loss_decode.loss_weight *= 2
    doubled = FixedLosses(losses.model, losses.batches, about=dict(loss_weight=2))
    assert largest(doubled) == pytest.approx(2 * first, rel=1e-3)
    labelled = FixedLosses(doubled.model, copy.deepcopy(doubled.batches), about=doubled.about)
    for sample in labelled.batches[0]['data_samples']:
        sample.gt_sem_seg.data[:] = 255
        sample.gt_sem_seg.data[0, 0, 0] = 0
    assert largest(labelled) != pytest.approx(2 * first, rel=0.1)


def test_a_loss_of_a_config_is_told_from_that_of_another(monkeypatch):
    monkeypatch.setattr(commands, 'take_batches', lambda *args: [segmentation_batch()])
    digests = set()
    for changes in ({}, {'model.a.loss_weight': 2}, {'data_preprocessor.mean': [3]}):
        cfg = Config(dict(model=dict(a=dict(b=1)), train_dataloader={}))
        cfg.merge_from_dict(changes)
        digests.add(commands.fixed_losses(cfg, None, 1).digest())
    assert len(digests) == 3


@pytest.mark.parametrize('tol', (float('nan'), -1.0, float('inf')))
def test_tol_is_checked(tol):
    with pytest.raises(ValueError, match=f'tol must be a finite number >= 0, but got {tol}'):
        measure_curvature(None, CurvatureSettings(tol=tol))


def test_eigenvalues_that_do_not_converge(tmp_path, monkeypatch):
    """One line that says what to change, and no file of products that nothing reads."""

    def refuse(operator, *args, **kwargs):
        operator @ np.ones(operator.shape[0])
        raise ArpackNoConvergence('No convergence (9 iterations)', [], [])

    monkeypatch.setattr('afan_mm.analysis.curvature.largest_eigenvalues', refuse)
    losses = losses_of(num_batches=1)
    chosen = {n: p for n, p in losses.model.named_parameters() if 'conv_seg' in n}
    message = r'tol must be larger, .*but got 0\.001 and 5: ArpackNoConvergence.*9 iterations'
    with pytest.raises(ValueError, match=message):
        measure_curvature(losses, parameters=chosen, work_dir=str(tmp_path))
    assert not list(tmp_path.rglob('products.bin'))


def test_flags_and_gradients_are_left_alone():
    losses = losses_of(num_batches=1)
    losses.model.decode_head.conv_seg.weight.requires_grad_(False)
    measure_curvature(losses, CurvatureSettings(0, 1))
    flags = {n: p.requires_grad for n, p in losses.model.named_parameters()}
    assert not flags.pop('decode_head.conv_seg.weight') and all(flags.values())
    assert all(p.grad is None for p in losses.model.parameters())


class ResNet20(nn.Module):
    """He et al. (2016), Sec. 4.2: three groups of three blocks, 16 channels in the first."""

    def __init__(self, width):
        super().__init__()
        from mmpretrain.models.backbones import ResNet_CIFAR
        from mmpretrain.models.backbones.resnet import BasicBlock

        class Backbone(ResNet_CIFAR):
            arch_settings = {20: (BasicBlock, (3, 3, 3))}

        self.body = Backbone(
            20,
            num_stages=3,
            out_indices=(2,),
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            stem_channels=width,
            base_channels=width,
            zero_init_residual=False,
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, image):
        return self.head(self.body(image)[0].mean((2, 3)))


def cifar10(number):
    """Images and labels, as many of each class."""
    folder = REAL_DATA / 'cifar10' / 'train'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    images, labels = [], []
    for label, name in enumerate(sorted(path.name for path in folder.iterdir())):
        for path in sorted((folder / name).iterdir())[: number // 10]:
            images.append(torch.from_numpy(cv2.imread(str(path))).permute(2, 0, 1))
            labels.append(label)
    return (torch.stack(images).float() - 120) / 62, torch.tensor(labels)


def train(model, images, labels, steps):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randperm(len(images))[:24]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize('data', ('noise', 'cifar10'))
def test_against_pyhessian(data):
    """A ResNet-20 after some training: its spectral norm to 1 %, and what the same probes say of
    the trace. Ours takes the images in two batches.
    """
    from pyhessian import hessian

    torch.manual_seed(0)
    if data == 'noise':
        model, images, labels = ResNet20(4), torch.randn(12, 3, 8, 8), torch.randint(10, (12,))
    else:
        model, (images, labels) = ResNet20(16), cifar10(200)
    train(model, images, labels, steps=10 if data == 'noise' else 30)
    images, labels = images[:: len(images) // 12][:12], labels[:: len(labels) // 12][:12]
    parts = [(images[:8], labels[:8]), (images[8:], labels[8:])]
    terms = [lambda p=p: nn.functional.cross_entropy(model(p[0]), p[1]) for p in parts]
    operator = HessianOperator(terms, list(model.parameters()), [2 / 3, 1 / 3])
    ours = largest_eigenvalues(operator, 1, tol=1e-4).values[0]
    theirs = hessian(model, nn.CrossEntropyLoss(), data=(images, labels), cuda=False)
    expected = theirs.eigenvalues(maxIter=100, tol=1e-4)[0][0]
    print(f'{data}: spectral norm {ours:.5g}, PyHessian {expected:.5g}')
    assert ours == pytest.approx(expected, rel=0.01)
    torch.manual_seed(1)
    expected = theirs.trace(maxIter=2, tol=0)
    torch.manual_seed(1)
    sums = []
    for _ in range(len(expected)):
        probe = [torch.randint_like(p, high=2) * 2 - 1 for p in model.parameters()]
        flat = torch.cat([v.detach().flatten() for v in probe]).double().numpy()
        sums.append(flat @ (operator @ flat))
    np.testing.assert_allclose(sums, expected, rtol=1e-3)


def test_batches_of_a_config_are_the_same_every_time():
    """Shuffled, from the training data loader; the host's streams stay where they are."""
    loader = dict(
        batch_size=1,
        num_workers=2,
        persistent_workers=True,
        dataset=Images(),
        sampler=dict(type='InfiniteSampler', shuffle=True),
        collate_fn=dict(type='pseudo_collate'),
    )
    streams = random_streams()
    with DefaultScope.overwrite_default_scope('mmseg'):
        first, second = take_batches(loader, 5), take_batches(loader, 5)
        assert len(take_batches(loader)) == 2  # an epoch
    after = random_streams()
    model = build(stock_config('segmentor'))
    digests = {FixedLosses(model, batches).digest() for batches in (first, second)}
    assert len(first) == 5 and len(digests) == 1
    assert FixedLosses(model, first, seed=1).digest() not in digests
    assert_identical(
        {k: np.asarray(v) for k, v in after.items()},
        {k: np.asarray(v) for k, v in streams.items()},
    )
    with pytest.raises(ValueError, match='count must be an integer >= 1, but got 0'):
        take_batches(loader, 0)


def test_annotations_are_loaded_before_the_image_is_resized():
    steps = [dict(type=t) for t in ('LoadImageFromFile', 'mmseg.Resize', 'LoadAnnotations', 'Pack')]
    loader = dict(batch_size=4, batch_sampler=1, dataset=dict(dataset=dict(pipeline=steps)))
    found = annotated(loader, 2)
    kinds = [step['type'] for step in found['dataset']['dataset']['pipeline']]
    assert kinds == ['LoadImageFromFile', 'LoadAnnotations', 'mmseg.Resize', 'Pack']
    assert found['batch_size'] == 2
    assert found['sampler'] == dict(type='DefaultSampler', shuffle=True)
    assert 'batch_sampler' not in found and loader['dataset']['dataset']['pipeline'] is steps


def test_table_and_picture():
    """Every figure that a reader needs, with its error; one curve for each model."""
    result = dict(
        loss=0.5,
        batches=2,
        images=8,
        parameters=dict(counted=1234, left_out=0, before=[], unused=['a.b'], operators=[]),
        eigenvalues=[dict(value=-23.361, error=0.02), dict(value=4.0, error=0.1)],
        trace=[dict(value=245.24, error=10.87, method='hutch++', probes=30)],
        density=[dict(nodes=[-1.0, 20.0], weights=[0.9, 0.1])],
        products=dict(eigenvalues=40, trace=30),
    )
    json.dumps(result)
    table = curvature_table({'stock': result, 'bare': dict(result, products={})})
    for text in ('stock', '23.36 ± 0.02', '245.2 ± 1e+01', 'hutch++, 30 probes', '70'):
        assert text in table
    notes = ' '.join(curvature_notes(result))
    assert '1,234 weights, 8 images in 2 batches' in notes and 'TAIL' not in notes
    assert '1 tensors that the loss does not read are left out (a.b' in notes
    picture = draw_density({'stock': result, 'A-FAN': result})
    assert picture.dtype == np.uint8 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert trapezoid([1, 1], [0, 1]) == 1
