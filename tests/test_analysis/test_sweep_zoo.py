"""The sweep over what mmdet and mmseg install: a family that trains, one that cannot, and what is
left for the next run.
"""

import json
import subprocess

from afan_mm.analysis import zoo
from support.fast_python import python
from support.paths import TOOLS

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
    assert 'both: 2 families, 1 train stock, 1 of these with A-FAN = 100.0%' in printed
    # A family that left its file is not tried again, one without is.
    path = tmp_path / 'mmseg_erfnet.json'
    path.write_text(json.dumps(dict(trained, seconds=12345)))
    code, printed, _ = sweep(tmp_path, '--families', 'mmseg/erfnet', '--redo', 'failed')
    assert code == 0 and json.loads(path.read_text())['seconds'] == 12345 and '1.23e+04' in printed
    # Killed for its time, long before it can be done: what is known stays, with the reason.
    path = tmp_path / 'mmdet_htc.json'
    path.write_text(json.dumps(dict(trained, family='mmdet/htc')))
    code, printed, _ = sweep(
        tmp_path, '--families', 'mmdet/htc', '--redo', 'all', '--time-limit', '1'
    )
    record = json.loads(path.read_text())
    assert (
        code == 0
        and record['error'] == 'not done in 1 s'
        and 'not done in 1 s\n    mmdet/htc' in printed
    )
    # Another preset has a record of its own.
    code, printed, _ = sweep(tmp_path, '--families', 'mmseg/erfnet', '--preset', 'recommended')
    record = json.loads((tmp_path / 'mmseg_erfnet_recommended.json').read_text())
    assert code == 0 and record['preset'] == 'recommended' and record['change'] > 1e-3
    assert record['sites'] == ['decode_head', 'neck'] and trained['preset'] == 'paper'


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
