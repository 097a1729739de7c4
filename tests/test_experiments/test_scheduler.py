"""Jobs of submitit, with a function in the place of a run."""

import os
import stat
from types import SimpleNamespace

import pytest
import submitit

from afan_mm.experiments import Scheduler, scheduler
from afan_mm.experiments.run import RunSpec
from afan_mm.experiments.scheduler import TimeLeft, duration, environment


def spec(arm, seed=0, threads=1):
    return RunSpec('', f'{arm}-{seed}', 'trial', arm, seed, {}, {}, {}, {}, threads=threads)


def behave(given):
    """Stands for a run."""
    if given.arm == 'fails':
        raise ValueError('as it should')


def test_several_at_a_time_and_failures_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, 'run', behave)
    said = []
    specs = [spec('a', seed) for seed in range(3)] + [spec('fails'), spec('b')]
    failed = Scheduler(tmp_path, 2, 'debug', said.append).run(specs)
    assert failed == ['fails seed 0']
    (failure,) = [line for line in said if 'FAILED' in line]
    assert failure.startswith('fails seed 0 FAILED: ') and 'as it should' in failure
    counts = [line.split(':')[0] for line in said if 'passed' in line]
    assert counts == [f'{n} of 5 runs' for n in range(1, 6)]


def test_processes_of_this_machine(tmp_path, monkeypatch):
    """Real ones: each with its threads; one that dies without a word is named."""

    def light(given):  # pickled whole, as is the namespace: no process imports torch for them
        import os

        print('threads', os.environ['OMP_NUM_THREADS'], flush=True)
        if given.arm == 'fails':
            raise ValueError('as it should')
        if given.arm == 'dies':
            os._exit(1)

    monkeypatch.setattr(scheduler, 'run', light)
    said = []
    specs = [
        SimpleNamespace(arm=arm, seed=0, key=arm, threads=3) for arm in ('good', 'dies', 'fails')
    ]
    failed = Scheduler(tmp_path, 2, 'local', said.append).run(specs)
    assert sorted(failed) == ['dies seed 0', 'fails seed 0']
    text = '\n'.join(said)
    assert 'as it should' in text and '3 of 3 runs' in text
    logs = [path.read_text() for path in tmp_path.rglob('*_log.out')]
    assert len(logs) == 3 and all('threads 3' in log for log in logs)


def test_a_slurm_job_asks_for_what_was_given(tmp_path, monkeypatch):
    sbatch = tmp_path / 'bin' / 'sbatch'
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\necho Submitted batch job 7\n')
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv('PATH', str(sbatch.parent), prepend=os.pathsep)
    monkeypatch.setattr(submitit.SlurmExecutor, 'affinity', classmethod(lambda cls: 2))
    given = dict(slurm_partition='gpu', gpus_per_node=1, timeout_min=90)
    made = Scheduler(tmp_path / 'jobs', 4, 'slurm', **given)
    job = made._submit(spec('afan', 2, threads=3), [])
    assert job.job_id == '7'
    (script,) = (tmp_path / 'jobs' / '7').glob('*.sh')
    text = script.read_text()
    asked = ('partition=gpu', 'gpus-per-node=1', 'cpus-per-task=3', 'job-name=afan-2', 'time=90')
    for line in asked:
        assert f'#SBATCH --{line}\n' in text


def test_a_job_gets_one_of_the_gpus_that_this_process_may_use(tmp_path, monkeypatch):
    made = Scheduler(tmp_path, 2)
    made.executor = SimpleNamespace(
        update_parameters=lambda **options: given.append(options['visible_gpus']),
        submit=lambda function, spec: SimpleNamespace(),
    )
    monkeypatch.setattr(scheduler.torch.cuda, 'device_count', lambda: 2)
    for mask, expected in (('2,3', [[2], [3]]), (None, [[0], [1]])):
        given = []
        if mask is None:
            monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
        else:
            monkeypatch.setenv('CUDA_VISIBLE_DEVICES', mask)
        job = made._submit(spec('a'), [])
        made._submit(spec('b'), [job.gpu])
        assert given == expected
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'GPU-1f,GPU-2e')
    with pytest.raises(ValueError, match='must be numbers .*, but got GPU-1f,GPU-2e'):
        made._submit(spec('a'), [])


def test_the_time_left_is_that_of_the_arms_that_are_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(scheduler.time, 'monotonic', lambda: now[0])
    left = TimeLeft(4, 2, dict(slow=60.0))
    fast, other, slow = spec('fast'), spec('fast', 1), spec('slow')
    left.started(fast)
    left.started(other)
    now[0] = 110.0
    # the other one is as good as done; a run of the slow arm takes 60 s, two run at a time
    line = left.ended(fast, True, [other, slow])
    assert line == '1 of 4 runs: fast seed 0 done; 10 s passed, about 30 s left'
    assert '2 of 4 runs: fast seed 1 failed' in left.ended(other, False, [slow])


def test_durations_in_words():
    assert [duration(s) for s in (5, 300, 9000)] == ['5 s', '5 min', '2.5 h']


def test_the_environment_is_given_back(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '7')
    monkeypatch.delenv('MKL_NUM_THREADS', raising=False)
    with environment(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1'):
        assert os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == '1'
    assert os.environ['OMP_NUM_THREADS'] == '7' and 'MKL_NUM_THREADS' not in os.environ


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(executor='cloud'), "executor must be one of .*, but got 'cloud'"),
        (dict(jobs=0), 'jobs must be an integer >= 1, but got 0'),
    ],
)
def test_what_a_scheduler_refuses(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Scheduler(tmp_path, **options)
