"""Gains side by side: the figures by hand, and the command."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from afan_mm.analysis.gains import draw_gains, find_gain, gain_table
from support.paths import ROOT


def report(half='report', images='the test set', **values):
    about = dict(primary='mIoU', half=half, images=[images])
    return dict(about, metrics=dict(mIoU=dict(values=values, larger_is_better=True)))


LATE = report(late={'1': 52.0, '2': 54.0}, stock={'1': 50.0})
REST = report(stock={'1': 50.0, '2': 51.0, '3': 40.0})


def test_figures():
    """Two seeds, differences 2 and 3: mean 2.5, sd sqrt(1/2), and t = 12.706 for 95 % of one degree
    of freedom; arms of several reports are read as one.
    """
    gain = find_gain('fifty', [LATE, REST], 'late', 'stock', 'mIoU')
    assert gain.differences == [2.0, 3.0] and gain.compared.seeds == [1, 2]
    assert gain.compared.mean == 2.5
    half = 12.7062 * math.sqrt(0.5) / math.sqrt(2)
    assert gain.compared.interval == pytest.approx((2.5 - half, 2.5 + half), abs=1e-4)
    row = gain_table([gain]).splitlines()[-1]
    assert row.startswith('| fifty | 2 | +2.5 | -3.853 … +8.853 | 0.126 |')


def test_what_cannot_be_compared_is_said():
    with pytest.raises(ValueError, match="metric must be among mIoU in fifty, but got 'mAP'"):
        find_gain('fifty', [LATE], 'late', 'stock', 'mAP')
    with pytest.raises(ValueError, match=r'late has \[1, 2\] and sam has none'):
        find_gain('fifty', [LATE], 'late', 'sam', 'mIoU')
    with pytest.raises(ValueError, match='late has mIoU 52.0 and 53.0 with seed 1'):
        find_gain('fifty', [LATE, report(late={'1': 53.0})], 'late', 'stock', 'mIoU')


@pytest.mark.parametrize(
    'other', (dict(half='selection'), dict(images='the validation set')), ids=('half', 'images')
)
def test_reports_of_other_images_are_not_joined(other):
    with pytest.raises(ValueError, match=r'of fifty must be of the same images, .* report \(the t'):
        find_gain('fifty', [LATE, report(stock={'1': 50.0}, **other)], 'late', 'stock', 'mIoU')


def test_picture():
    """A line more for each experiment; one seed, without an interval, is drawn."""
    gains = [find_gain(str(n), [LATE, REST], 'late', 'stock', 'mIoU') for n in range(3)]
    gains[1] = find_gain('one', [LATE], 'late', 'stock', 'mIoU')
    pictures = [draw_gains(gains[:n], 'mIoU') for n in (1, 3)]
    assert pictures[0].shape[0] < pictures[1].shape[0] and pictures[0].dtype == np.uint8
    black = [(p == 0).all(2).sum() for p in pictures]
    assert black[1] > black[0] > 0


def test_command(tmp_path):
    for name, content in (('late', LATE), ('rest', REST), ('other', dict(a=1))):
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    script = str(ROOT / 'tools/analysis_tools/gains.py')

    def call(*options, reference='stock'):
        done = subprocess.run(
            [sys.executable, script, 'late', reference, *options],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = call('fifty=late.json,rest.json', 'one=late.json', '--out', 'a/gains.png')
    assert code == 0 and '| fifty | 2 | +2.5 |' in said and '| one | 1 | +2 | – | – |' in said
    assert (tmp_path / 'a/gains.png').read_bytes().startswith(b'\x89PNG')
    code, said = call('fifty=late.json,rest.json', reference='stock,late')
    rows = [line.split(' |')[:2] for line in said.splitlines()[2:]]
    assert code == 0 and rows == [['| fifty: late − stock', ' 2'], ['| fifty: late − late', ' 2']]
    for options, message in (
        (['late.json'], 'an experiment must be NAME=REPORT.json, but got late.json'),
        (['a=other.json'], 'report must be the report.json of an experiment, but got other.json'),
        (['a=late.json', '--metric', 'mAP'], "metric must be among mIoU in a, but got 'mAP'"),
    ):
        code, said = call(*options)
        assert code != 0 and message in said and 'Traceback' not in said
