"""The sweep over what the libraries install: a family that trains, one that cannot, and what is
left for the next run.
"""

import io
import json
import re
import subprocess

import pytest
from mmengine.config import Config
from rich.console import Console
from torch import nn

from afan_mm.analysis import zoo, zoo_trial
from afan_mm.analysis.zoo_attack import attack_steps
from afan_mm.robustness import PixelAttack
from support.fast_python import python
from support.paths import TOOLS
from support.tiny import build, detector_config, segmentation_batch, segmentor_config

TOOL = TOOLS / 'analysis_tools' / 'sweep_zoo.py'


def sweep(out_dir, *options):
    result = subprocess.run(
        [python(), '-W', 'ignore', str(TOOL), '--out-dir', str(out_dir), *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


def test_sweep(tmp_path):
    code, printed, _ = sweep(
        tmp_path,
        '--families',
        'mmseg/erfnet',
        'mmdet/common',
        '--preset',
        'paper',
        '--json',
        str(tmp_path / 'all' / 'zoo.json'),
    )
    assert code == 0, printed
    records = {
        record['family']: record
        for record in json.loads((tmp_path / 'all' / 'zoo.json').read_text())
    }
    trained, refused = records['mmseg/erfnet'], records['mmdet/common']
    assert (
        trained['stage'] == 'done'
        and trained['sites'] == ['decode_head', 'neck']
        and 0 < trained['stock_loss'] < 100
    )
    assert trained['change'] > 1e-3 and trained['components'] == [
        'AFANDecodeHead',
        'AFANNeckWrapper',
    ]
    assert (
        refused['stage'] == 'config'
        and 'the config has no model or no optimizer' in refused['error']
    )
    assert 'all: 2 families, 1 train stock, 1 of these with A-FAN = 100.0%' in printed
    # A family that left its file is not tried again, one without is.
    path = tmp_path / 'mmseg_erfnet.json'
    path.write_text(json.dumps(dict(trained, seconds=12345)))
    code, printed, _ = sweep(
        tmp_path, '--families', 'mmseg/erfnet', '--preset', 'paper', '--redo', 'failed'
    )
    assert code == 0 and json.loads(path.read_text())['seconds'] == 12345 and '1.23e+04' in printed
    # Killed for its time, long before it can be done: what is known stays, with the reason.
    path = tmp_path / 'mmdet_htc.json'
    path.write_text(json.dumps(dict(trained, family='mmdet/htc')))
    code, printed, _ = sweep(
        tmp_path,
        '--families',
        'mmdet/htc',
        '--preset',
        'paper',
        '--redo',
        'all',
        '--time-limit',
        '1',
    )
    record = json.loads(path.read_text())
    assert (
        code == 0
        and record['error'] == 'not done in 1 s'
        and 'not done in 1 s\n    mmdet/htc' in printed
    )
    # Another preset has a record of its own.
    code, printed, _ = sweep(tmp_path, '--families', 'mmpretrain/mobilenet_v2')
    record = json.loads((tmp_path / 'mmpretrain_mobilenet_v2_recommended.json').read_text())
    assert code == 0 and record['preset'] == 'recommended' and record['change'] > 1e-3
    assert record['sites'] == ['backbone.conv2', 'backbone.layer7', 'neck'], record['sites']
    assert trained['preset'] == 'paper'
    assert 'mmpretrain: 1 families, 1 train stock, 1 of these with A-FAN = 100.0%' in printed
    # So have the attacks.
    code, printed, _ = sweep(tmp_path, '--families', 'mmseg/erfnet', '--robust')
    record = json.loads((tmp_path / 'mmseg_erfnet_robust.json').read_text())
    assert code == 0 and record['stage'] == 'done' and 'preset' not in record, record
    assert [*record['attacks']] == ['pgd', 'segpgd', 'cospgd']
    assert 'mmseg: 1 families, 1 train stock, 1 of these under every attack = 100.0%' in printed


def dumped(folder, model, lr=0.1):
    """A family with one config, and its empty record."""
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=lr))
    scope = 'mmdet' if 'roi_head' in model else 'mmseg'
    Config(dict(model=model, optim_wrapper=wrapper, default_scope=scope)).dump(folder / 'one.py')
    return zoo_trial.Record(folder / 'record.json', family=f'{scope}/one')


@pytest.mark.parametrize('lr, steps', [(0.1, 2), (0, None)])
def test_first_step_without_direction(tmp_path, lr, steps):
    """A last layer that starts at zero: no site has a gradient until it has learnt. The step after
    the stock one decides, and where that has none either the family fails.
    """
    model = segmentor_config(auxiliary=False)
    zero = dict(type='Constant', val=0, override=dict(name='conv_seg'))
    model.decode_head.init_cfg = zero
    record = dumped(tmp_path, model, lr)
    if steps is None:
        with pytest.raises(zoo_trial.StepError, match='the gradients are the stock ones'):
            zoo_trial.trial(tmp_path, record, 'recommended', None)
        return
    zoo_trial.trial(tmp_path, record, 'recommended', 'late')
    assert record['steps'] == steps and record['change'] > 1e-3 and record['stage'] == 'done'
    console = Console(record=True, width=200, file=io.StringIO())
    zoo.report([record], console)
    assert 'passed, in the second step' in console.export_text()


@pytest.mark.parametrize(
    'host, attacks', [('mmseg', ['pgd', 'segpgd', 'cospgd']), ('mmdet', ['pgd'])]
)
def test_attacks(tmp_path, host, attacks):
    """One step moves nearly every value; SegPGD's second may take back what its first did."""
    record = dumped(tmp_path, segmentor_config() if host == 'mmseg' else detector_config())
    zoo_trial.robust_trial(tmp_path, record)
    assert record['stage'] == 'done' and [*record['attacks']] == attacks
    for name, share in record['attacks'].items():
        assert (0.3 if name == 'segpgd' else 0.9) < share <= 1


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda model: nn.init.zeros_(model.decode_head.conv_seg.weight), 'no pixel was moved'),
        (
            lambda model: nn.init.constant_(model.decode_head.conv_seg.bias, float('nan')),
            'is not finite',
        ),
        (lambda model: model.decode_head.conv_seg.weight.sum().backward(), 'traces .* gradients'),
    ],
)
def test_attacks_that_do_not_count(spoil, message):
    """Each is tried, and what is wrong with it is told."""
    model = build(segmentor_config(auxiliary=False)).eval()
    spoil(model)
    moved, errors = attack_steps(model, segmentation_batch(num_samples=1))
    assert not moved and [*errors] == ['pgd', 'segpgd', 'cospgd']
    for error in errors.values():
        assert re.search(message, str(error))


def test_attacks_on_a_host_that_gives_a_module_a_second_place():
    """As DDQ gives its decoder the branches of its head, when its loss is computed."""
    model = build(segmentor_config(auxiliary=False)).eval()

    def second_place(backbone, args):
        backbone.classifier = model.decode_head.conv_seg

    model.backbone.register_forward_pre_hook(second_place)
    moved, errors = attack_steps(model, segmentation_batch(num_samples=1))
    assert [*moved] == ['pgd', 'segpgd', 'cospgd'] and not errors
    assert 'backbone.classifier.weight' in model.state_dict()


@pytest.mark.parametrize('layer', ['backbone', 'decode_head'])
def test_attacks_where_random_weights_are_certain(tmp_path, layer):
    """Each layer of the backbone multiplies its input by about eight, which norms that fit undo;
    nothing comes after the last layer that could.
    """
    model = segmentor_config(auxiliary=False)
    if layer == 'backbone':
        model.backbone.init_cfg = dict(type='Normal', layer='Conv2d', std=1.0)
    else:
        model.decode_head.init_cfg = dict(type='Normal', std=1e6, override=dict(name='conv_seg'))
    record = dumped(tmp_path, model)
    if layer == 'decode_head':
        with pytest.raises(
            zoo_trial.StepError, match='cospgd: NoGradientError: no pixel was moved'
        ):
            zoo_trial.robust_trial(tmp_path, record)
        assert record['fitted']
        return
    zoo_trial.robust_trial(tmp_path, record)
    assert record['stage'] == 'done' and record['fitted'] and len(record['attacks']) == 3
    console = Console(record=True, width=200, file=io.StringIO())
    zoo.report([record], console)
    assert 'passed, with fitted norms' in console.export_text()


def test_a_family_fails_where_one_attack_does(tmp_path, monkeypatch):
    stock = PixelAttack.__call__

    def fail(self, batch):
        if self.settings.attack == 'segpgd':
            raise ArithmeticError('on purpose')
        return stock(self, batch)

    monkeypatch.setattr(PixelAttack, '__call__', fail)
    record = dumped(tmp_path, segmentor_config())
    with pytest.raises(zoo_trial.StepError, match='^segpgd: ArithmeticError: on purpose$'):
        zoo_trial.robust_trial(tmp_path, record)
    assert record['stage'] == 'attack' and [*record['attacks']] == ['pgd', 'cospgd']


def test_unknown_family(tmp_path):
    code, _, error = sweep(tmp_path, '--families', 'mmdet/yolo9000')
    assert (
        code != 0
        and '--families must be folders of installed configs, such as mmdet/' in error
        and "'mmdet/yolo9000'" in error
    )
    assert 'Traceback' not in error and not list(tmp_path.iterdir())


def test_what_an_interrupted_sweep_left(tmp_path):
    """Half a record is none, whatever its stage; a finished one is kept."""
    out = tmp_path / 'mmseg_fcn.json'
    assert zoo.read_record(out) is None and zoo.is_wanted(out, None)
    for left in (
        dict(stage='stock', config='fcn/fcn.py'),  # as a trial leaves it that was killed early
        dict(stage='afan', family='mmseg/fcn'),
        'half of a fi',
    ):
        out.write_text(left if isinstance(left, str) else json.dumps(left))
        assert zoo.read_record(out) is None and zoo.is_wanted(out, None)
    for done, again in ((dict(seconds=3.0), False), (dict(error='not done in 1 s'), True)):
        out.write_text(json.dumps(dict(done, stage='afan', family='mmseg/fcn')))
        assert zoo.read_record(out)['stage'] == 'afan'
        assert not zoo.is_wanted(out, None) and zoo.is_wanted(out, 'all')
        assert zoo.is_wanted(out, 'failed') == again
