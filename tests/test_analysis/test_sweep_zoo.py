"""The sweep over what mmdet and mmseg install: a family that trains, one that cannot, and what is
left for the next run.
"""

import json
import subprocess
import sys

from support.paths import TOOLS

TOOL = TOOLS / 'analysis_tools' / 'sweep_zoo.py'


def sweep(out_dir, *options):
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', str(TOOL), '--out-dir', str(out_dir), *options],
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
    # Killed for its time: what is known stays, with the reason.
    code, printed, _ = sweep(
        tmp_path, '--families', 'mmseg/erfnet', '--redo', 'all', '--time-limit', '1'
    )
    record = json.loads(path.read_text())
    assert (
        code == 0
        and record['error'] == 'not done in 1 s'
        and 'not done in 1 s\n    mmseg/erfnet' in printed
    )


def test_unknown_family(tmp_path):
    code, _, error = sweep(tmp_path, '--families', 'mmdet/yolo9000')
    assert (
        code != 0
        and '--families must be folders of installed configs, such as mmdet/' in error
        and "'mmdet/yolo9000'" in error
    )
    assert 'Traceback' not in error and not list(tmp_path.iterdir())
