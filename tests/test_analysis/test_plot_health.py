"""plot_health.py: the verdicts follow from the figures by hand, real runs are read, and bad input
writes nothing.
"""

import json
import sys

import pytest
from PIL import Image

from afan_mm.analysis import run_advice as advice
from afan_mm.analysis import run_health as health
from afan_mm.analysis import run_logs as logs
from afan_mm.cli import command_line
from support.runs import afan_model, train
from support.tools import load_tool

plot_health = load_tool('analysis_tools/plot_health')

FIGURES = dict(
    objective=1.1,
    gain=0.1,
    delta_norm=2.0,
    relative_norm=0.02,
    zero_share=0.0,
    mix_ratio=0.6,
    nonfinite_share=0.0,
)


def line(step, sites=('neck',), loss=1.0, **figures):
    """What the logger writes; the figures of ``sites``, where they have been measured."""
    values = {
        f'afan/{site}/{key}': value
        for site in sites
        for key, value in dict(FIGURES, **figures).items()
    }
    return dict(values, loss=loss, lr=0.01, iter=step, step=step)


def write(folder, *lines, time='20260101_000000', end=''):
    path = folder / time / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in lines) + end)
    return folder


def verdict(tmp_path, *changes):
    """On a site with one report for each of ``changes``."""
    lines = [line(10 * i, **change) for i, change in enumerate(changes, 1)]
    return health.judge(logs.read_run(write(tmp_path / 'run', *lines))['sites']['neck'])


def test_relative_gain_is_measured_at_the_clean_loss_of_the_tail(tmp_path):
    run = logs.read_run(write(tmp_path, line(10, loss=7.0, objective=1.5, gain=0.3)))
    (report,) = run['sites']['neck']
    # The run's loss has more parts than the tail's: 1.5 - 0.3 counts.
    assert (
        report['clean'] == pytest.approx(1.2)
        and report['relative_gain'] == pytest.approx(0.25)
        and run['loss'] == {10: 7.0}
    )


@pytest.mark.parametrize(
    'gain, expected',
    [
        ('0.0099', health.WEAK),
        ('-0.0099', health.WEAK),
        ('0.0101', health.FINE),
        ('0.99', health.FINE),
        ('1.0', health.STRONG),
        ('-0.05', health.UNCLEAR),
    ],
)
def test_verdicts_at_their_limits(gain, expected, tmp_path):
    """At a clean loss of 1 a gain is its own share of it."""
    gain = float(gain)
    assert verdict(tmp_path, dict(objective=1 + gain, gain=gain))['verdict'] == expected


def test_the_later_half_is_judged(tmp_path):
    weak, fine = dict(objective=1.001, gain=0.001), dict(objective=1.1, gain=0.1)
    found = verdict(tmp_path, weak, dict(weak, delta_norm=3.0), fine, dict(objective=1.3, gain=0.3))
    assert found['verdict'] == health.FINE and found['iters'] == [30, 40] and found['reports'] == 2
    assert found['medians']['relative_gain'] == pytest.approx(0.2)


@pytest.mark.parametrize('reports', [4, 6])
def test_a_clean_loss_of_zero_has_no_share(reports, tmp_path):
    """As with ``objective='consistency'``, whose passes start from no divergence."""
    write(tmp_path / 'run', *[line(10 * i, objective=0.1, gain=0.1) for i in range(1, reports + 1)])
    found = health.judged_run(tmp_path / 'run')
    (judged,) = found['verdicts'].values()
    assert judged['verdict'] == health.UNCLEAR
    assert judged['reasons'] == ['the clean loss of the tail is 0, of which a gain is no share']
    assert 'gain 0.1, clean loss 0\n' in health.verdicts_in_words('run', found)


def test_weak_says_why_and_how_much_more(tmp_path):
    found = verdict(tmp_path, dict(objective=1.001, gain=0.001, mix_ratio=0.04, zero_share=0.75))
    assert found['reasons'] == [
        'the gain is below 1% of the clean loss',
        'the normalisation leaves 4% of the perturbation (low: below 10%)',
        '75% of the elements are not moved (high: above 50%)',
    ]
    size, moments, site = found['advice']
    # 0.05 / 0.001
    assert size.startswith('epsilon, 50 times as large') and advice.STUDY in size
    assert (
        moments == 'moments=None, which keeps all of the perturbation instead of 4%'
        and site.startswith('the site')
    )


def test_weak_for_no_reason_of_its_own(tmp_path):
    found = verdict(tmp_path, dict(objective=1.000001, gain=0.000001, mix_ratio=1.0))
    assert len(found['reasons']) == len(found['advice']) == 1
    assert found['advice'][0].startswith('epsilon, more than 1000 times as large')


@pytest.mark.parametrize(
    'size, mix, expected',
    [
        (0.01, 1.0, 'epsilon, 50 times as large'),
        (0.1, 1.0, 'the site, for late ones with joint=True'),  # as large as in the study
        (0.1, 0.3, 'epsilon, 50 times as large'),  # of which the normalisation leaves 0.03
        (0.6, 1.0, 'epsilon, smaller: the step is 60% of the norm of the feature'),
        (float('nan'), 1.0, 'epsilon, 50 times as large'),  # as in older logs
    ],
)
def test_advice_at_a_weak_site_follows_the_size(tmp_path, size, mix, expected):
    changes = dict(objective=1.001, gain=0.001, relative_norm=size, mix_ratio=mix)
    first = verdict(tmp_path, changes)['advice'][0]
    assert first.startswith(expected), first
    # where the size is not known, both ways
    assert first.endswith('such a step overshoots') == (not size < 0.5)


def test_a_gain_above_a_clean_loss_that_has_vanished(tmp_path):
    """On few images late in a training: four times the clean loss, a fifth of that at its start."""
    start, late = dict(objective=2.3, gain=0.3), dict(objective=0.5, gain=0.4)
    found = verdict(tmp_path, start, late)
    assert found['verdict'] == health.FINE and found['medians']['relative_gain'] == pytest.approx(4)
    assert found['reasons'] == [
        'the gain is above the clean loss, which is small by now, but below the clean loss of the '
        'first report, 2'
    ]
    # above that of the start, too
    (tmp_path / 'strong').mkdir()
    found = verdict(tmp_path / 'strong', start, dict(objective=2.2, gain=2.1))
    assert found['verdict'] == health.STRONG


def test_the_recommended_setting(tmp_path, monkeypatch, capsys):
    """A real run: both sites are moved by a tenth of their norm, and the report speaks of the
    study; the control's does not.
    """
    site = dict(
        norm='l2', norm_over='position', epsilon_unit='norm', epsilon=0.1, moments=None, joint=True
    )
    for name, kind in (('late', 'gradient'), ('control', 'none')):
        one = dict(site, num_strengths=1, adv_weight=0.5, perturbation=kind)
        train(afan_model(neck=one, head=dict(one)), tmp_path / name, max_iters=2)
    call(monkeypatch, tmp_path / 'late', '--json', tmp_path / 'late.json')
    shown = capsys.readouterr().out
    verdicts = json.loads((tmp_path / 'late.json').read_text())[str(tmp_path / 'late')]['verdicts']
    for each in verdicts.values():  # positions without a gradient stay
        assert 0.05 < each['medians']['relative_norm'] < 0.1001
        assert health.percent(each['medians']['relative_norm']) + ' of the norm of the' in shown
    assert 'helped where stock had had time to overfit' in shown
    call(monkeypatch, tmp_path / 'control')
    shown = capsys.readouterr().out
    assert 'had time to overfit' not in shown and 'perturbation 0% of the norm' in shown


def test_a_perturbation_of_zero_is_weak(tmp_path):
    found = verdict(tmp_path, dict(gain=0.1, delta_norm=0.0))
    assert found['verdict'] == health.WEAK and found['reasons'] == ['the perturbation is zero']


def test_objective_and_clean_loss_apart(tmp_path):
    """The objective doubles while the clean loss of the same batches halves; the gain stays below
    it.
    """
    objectives, cleans = (0.6, 0.6, 0.6, 0.7, 0.8, 0.8), (0.55, 0.55, 0.5, 0.5, 0.45, 0.45)
    changes = [
        dict(objective=o, gain=o - c, delta_norm=i)
        for i, (o, c) in enumerate(zip(objectives, cleans), 1)
    ]
    found = verdict(tmp_path, *changes)
    assert found['verdict'] == health.STRONG
    assert found['reasons'] == [
        'the objective rose by 33% while the clean loss fell by 18% (the limit is 10% each)'
    ]
    assert (
        health.judge(
            logs.read_run(
                write(tmp_path / 'short', *[line(i, **c) for i, c in enumerate(changes[1:])])
            )['sites']['neck']
        )['verdict']
        == health.FINE
    )  # five reports are too few


def test_directions_that_are_not_finite_hurt_after_the_first_report(tmp_path):
    good, bad = dict(gain=0.2), dict(nonfinite_share=0.25)
    found = verdict(tmp_path, good, bad, dict(good, delta_norm=3.0))
    assert found['verdict'] == health.STRONG
    assert found['reasons'] == [
        'up to 25% of the directions were not finite, last in the report of iteration 20'
    ]
    assert 'bfloat16' in found['advice'][-1]
    first = write(tmp_path / 'first', line(10, nonfinite_share=0.25), line(20))
    assert health.judge(logs.read_run(first)['sites']['neck'])['verdict'] == health.FINE


def test_losses_that_are_not_finite_hurt(tmp_path):
    found = verdict(tmp_path, dict(objective=float('nan'), gain=float('nan')))
    assert found['verdict'] == health.STRONG and found['reasons'] == [
        '1 of 1 adversarial or clean losses were not finite'
    ]


@pytest.mark.parametrize(
    'share, text', [('0.0004', '0.04%'), ('-0.024', '-2.4%'), ('0.123', '12%'), ('10.5', '1050%')]
)
def test_percent(share, text):
    assert health.percent(float(share)) == text


def test_a_resumed_run_is_joined_and_the_later_log_wins(tmp_path):
    write(
        tmp_path,
        line(10, gain=0.01),
        line(20, gain=0.02),
        line(25, gain=0.03),
        time='20260101_000000',
    )
    write(tmp_path, line(20, gain=0.04, loss=5.0), line(30, gain=0.05), time='20260102_000000')
    # an evaluation in the same folder
    write(tmp_path, dict(mIoU=50.0, step=0), time='20260103_000000')
    run = logs.read_run(tmp_path)
    assert [(r['iter'], r['gain']) for r in run['sites']['neck']] == [
        (10, 0.01),
        (20, 0.04),
        (30, 0.05),
    ]
    assert run['loss'] == {10: 1.0, 20: 5.0, 30: 1.0}


def test_a_faster_logger_repeats_reports(tmp_path):
    lines = [dict(loss=2.0, step=10), line(20), line(30), line(40, gain=0.2), line(50, gain=0.2)]
    run = logs.read_run(write(tmp_path, *lines, dict(mIoU=50.0, step=50)))
    assert [r['iter'] for r in run['sites']['neck']] == [20, 40] and list(run['loss']) == [
        10,
        20,
        30,
        40,
        50,
    ]


def test_a_killed_run_loses_its_last_line_only(tmp_path):
    run = logs.read_run(
        write(tmp_path, line(10), line(20, gain=0.2), end='{"loss": 1.0, "afan/neck/ga')
    )
    assert [r['iter'] for r in run['sites']['neck']] == [10, 20]


def call(monkeypatch, *argv):
    monkeypatch.setattr(sys, 'argv', ['plot_health.py', *map(str, argv)])
    command_line.run(plot_health.main)


def colours(path):
    with Image.open(path) as image:
        return image.size, {colour for _, colour in image.convert('RGB').getcolors(1 << 20)}


def test_a_real_run_is_read_judged_and_drawn(tmp_path, monkeypatch, capsys):
    site = dict(epsilon=0.3, num_strengths=2)
    trace = train(afan_model(neck=site, head=dict(site)), tmp_path / 'run', max_iters=2)
    call(monkeypatch, tmp_path / 'run', '--json', tmp_path / 'health.json')
    found = json.loads((tmp_path / 'health.json').read_text())[str(tmp_path / 'run')]
    assert set(found['sites']) == set(found['verdicts']) == {'neck', 'decode_head'}
    for site, reports in found['sites'].items():
        assert [report['iter'] for report in reports] == [1, 2]
        for report, logged in zip(reports, trace.reports):
            for figure in FIGURES:
                assert report[figure] == pytest.approx(logged[f'train/afan/{site}/{figure}'])
    losses = [each['loss'] for each in trace.losses]
    assert list(found['loss'].values()) == pytest.approx(losses, rel=0.1)  # the log has a mean
    shown = capsys.readouterr().out
    gain = found['verdicts']['neck']['medians']['relative_gain']
    assert (
        f'= {100 * gain:.2g}% of the clean loss' in shown
        and f'neck: {found["verdicts"]["neck"]["verdict"].upper()}' in shown
    )
    size, drawn = colours(tmp_path / 'run' / 'health.png')
    # one colour for each site
    assert min(size) > 800 and {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= drawn


def test_real_runs_of_nothing_and_of_too_much(tmp_path, monkeypatch, capsys):
    for name, epsilon in (('weak', 1e-6), ('strong', 1000.0)):
        head = dict(epsilon=epsilon, num_strengths=2, moments=None)
        train(afan_model(neck=None, head=head), tmp_path / name, max_iters=2)
    call(monkeypatch, tmp_path / 'weak', tmp_path / 'strong', '--out', tmp_path / 'both.png')
    weak, strong = capsys.readouterr().out.split(f'{tmp_path / "strong"}\n')
    assert (
        'decode_head: TOO WEAK TO MATTER' in weak and 'decode_head: STRONG ENOUGH TO HURT' in strong
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ['both.png', 'strong', 'weak']


def test_runs_side_by_side_and_one_site_of_two(tmp_path, monkeypatch, capsys):
    for name, gain in (('a', 5.0), ('b', 1e-4)):
        write(tmp_path / name, line(10, ('neck', 'head'), gain=gain, objective=1 + gain))
    call(
        monkeypatch,
        tmp_path / 'a',
        tmp_path / 'b',
        '--sites',
        'neck',
        '--out',
        tmp_path / 'two.png',
    )
    shown = capsys.readouterr().out
    assert shown.count('neck: ') == 2 and 'head: ' not in shown
    assert (
        'STRONG ENOUGH TO HURT' in shown.split(str(tmp_path / 'b'))[0]
        and 'TOO WEAK TO MATTER' in shown
    )
    assert (
        colours(tmp_path / 'two.png')[0][0] >= 1280 and not (tmp_path / 'a' / 'health.png').exists()
    )


def test_nan_and_infinity_are_drawn_around(tmp_path, monkeypatch):
    write(
        tmp_path / 'a',
        line(10),
        line(20, objective=float('inf'), gain=float('nan'), mix_ratio=float('nan'), zero_share=1.0),
    )
    call(monkeypatch, tmp_path / 'a', '--json', tmp_path / 'health.json')
    text = (tmp_path / 'health.json').read_text()
    assert 'NaN' not in text and 'Infinity' not in text and (tmp_path / 'a' / 'health.png').exists()


@pytest.mark.parametrize(
    'arguments, message',
    [
        ('gone', 'WORK_DIR must be a work folder or a scalars.json, but got gone'),
        (
            'empty',
            'no scalars.json in empty: the run must have a LocalVisBackend, and have logged a line',
        ),
        (
            'stock',
            'no A-FAN figures in stock: a stock run, a run without AFANHook, or one shorter than '
            'its interval',
        ),
        (
            'broken',
            'line 1 of broken/20260101_000000/vis_data/scalars.json is no record of scalars',
        ),
        ('afan stock', 'no A-FAN figures in stock'),
        ('afan --sites neck heck', '--sites must be some of neck in afan, but got heck'),
        ('afan --out picture.pdf', '--out must end in .png, but got picture.pdf'),
        (
            'afan --out broken/20260101_000000/vis_data/scalars.json/health.png',
            '--out must be a file in a folder that can be written, but got broken/20260101',
        ),
        (
            'afan --json broken/20260101_000000/vis_data/scalars.json/health.json',
            '--json must be a file in a folder that can be written, but got broken/20260101',
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    write(tmp_path / 'stock', dict(loss=1.0, step=10))
    write(tmp_path / 'afan', line(10))
    write(tmp_path / 'broken', dict(loss=1.0), line(20))  # a line without its iteration
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, *arguments.split())
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert (
        shown.out == ''
        and len(shown.err.splitlines()) == 1
        and f'plot_health.py: error: {message}' in shown.err
    )
    assert sorted(tmp_path.rglob('*')) == before


def test_gain_and_its_share_have_one_sign(tmp_path):
    """The median of the gains is positive here, that of their shares of the clean loss is not."""
    found = health.judged_run(write(tmp_path / 'run', line(10), line(20)))
    found['verdicts']['neck']['medians'].update(gain=0.0032, relative_gain=-0.0016, clean=2.0)
    text = health.verdicts_in_words('run', found)
    assert 'gain -0.0032 = -0.16% of the clean loss 2 ' in text and 'gain 0.0032' not in text
