"""Runs as jobs of submitit: several at a time, on this machine or on a Slurm cluster."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import torch
from submitit import AutoExecutor, DebugExecutor, Job, LocalExecutor

from ..utils.errors import UsageError
from .run import RunSpec, run

EXECUTORS = ('local', 'slurm', 'debug')
LAST_LINES = 5
POLL_SECONDS = 0.5
MINUTES = 7 * 24 * 60  # submitit ends a job after that, unless it is told otherwise


class Scheduler:
    """Starts runs, at most ``jobs`` at a time, and waits for them.

    Args:
        folder: For submitit's files and the output of each job.
        jobs: Runs at a time; the cores of this machine are shared out among them.
        executor: 'local', 'slurm', or 'debug', in this process.
        say: Takes each line about the progress.
        options: Parameters of submitit's executor, such as ``slurm_partition``, or ``timeout_min``,
            the minutes after which it ends a job.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int = 1,
        executor: str = 'local',
        say: Callable[[str], None] = print,
        **options: Any,
    ):
        if executor not in EXECUTORS:
            raise ValueError(f'executor must be one of {EXECUTORS}, but got {executor!r}')
        if jobs < 1:
            raise ValueError(f'jobs must be an integer >= 1, but got {jobs!r}')
        self.folder, self.jobs, self.kind, self.say = Path(folder), jobs, executor, say
        self.executor = make_executor(executor, self.folder / '%j')
        self.options = options

    def run(self, specs: Sequence[RunSpec], known: Optional[Dict[str, float]] = None) -> List[str]:
        """Run all of them; the names of those that failed. The others go on when one fails.

        Args:
            known: Seconds that a run of an arm took earlier, for the time left.
        """
        waiting, running = list(specs), {}
        failed: List[str] = []
        left = TimeLeft(len(specs), self.jobs, known)
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    spec = waiting.pop(0)
                    running[self._submit(spec, [job.gpu for job in running])] = spec
                    left.started(spec)
                for job in [job for job in running if self.kind == 'debug' or job.done()]:
                    spec, error = running.pop(job), outcome(job)
                    if error is not None:
                        failed.append(f'{spec.arm} seed {spec.seed}')
                        self.say(f'{failed[-1]} FAILED: {about_failure(job, error)}')
                    self.say(left.ended(spec, error is None, [*waiting, *running.values()]))
                if running:
                    time.sleep(POLL_SECONDS)
        finally:
            for job in running:
                job.cancel(check=False)
        return failed

    def _submit(self, spec: RunSpec, taken: List[Optional[int]]) -> Job:
        options, gpu = dict(dict(timeout_min=MINUTES), **self.options), None
        if self.kind == 'slurm':
            options.update(name=f'{spec.arm}-{spec.seed}', cpus_per_task=spec.threads)
        elif torch.cuda.device_count():
            gpu = min(range(torch.cuda.device_count()), key=taken.count)
            options.update(gpus_per_node=1, visible_gpus=[device_number(gpu)])
        self.executor.update_parameters(**options)
        with environment(OMP_NUM_THREADS=str(spec.threads), MKL_NUM_THREADS=str(spec.threads)):
            job = self.executor.submit(run, spec)
        job.gpu = gpu
        return job


def device_number(index: int) -> int:
    """The machine's number of a GPU that this process has under an index: submitit tells a job
    which to use by setting ``CUDA_VISIBLE_DEVICES`` anew.
    """
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')
    if visible == ['']:
        return index
    if not visible[index].strip().isdigit():
        raise UsageError(
            'CUDA_VISIBLE_DEVICES must be numbers to run on this machine, but got '
            f'{",".join(visible)}'
        )
    return int(visible[index])


class TimeLeft:
    """Says what is done and how long the rest will take, from what runs of each arm took."""

    def __init__(self, total: int, jobs: int, known: Optional[Dict[str, float]] = None):
        self.total, self.jobs, self.done = total, jobs, 0
        self.began = time.monotonic()
        self.took = {arm: [seconds] for arm, seconds in (known or {}).items()}
        self.start: Dict[str, float] = {}

    def started(self, spec: RunSpec) -> None:
        self.start[spec.key] = time.monotonic()

    def ended(self, spec: RunSpec, success: bool, left: Sequence[RunSpec]) -> str:
        """A line; ``left`` are the runs that wait or run."""
        now = time.monotonic()
        self.done += 1
        if success:
            self.took.setdefault(spec.arm, []).append(now - self.start[spec.key])
        everything = [each for took in self.took.values() for each in took]
        rest = 0.0
        for each in left:
            took = self.took.get(each.arm) or everything or [0.0]
            rest += max(0.0, sum(took) / len(took) - (now - self.start.get(each.key, now)))
        return (
            f'{self.done} of {self.total} runs: {spec.arm} seed {spec.seed} '
            f'{"done" if success else "failed"}; {duration(now - self.began)} passed, '
            f'about {duration(rest / self.jobs)} left'
        )


def make_executor(kind: str, folder: Path) -> Any:
    """submitit's executor; Slurm's through the one that takes the same names for every cluster."""
    if kind == 'slurm':
        return AutoExecutor(folder=str(folder), cluster=kind)
    return dict(local=LocalExecutor, debug=DebugExecutor)[kind](folder=str(folder))


def outcome(job: Job) -> Optional[BaseException]:
    """The error of a job that is over, also where it left none, such as one that was killed."""
    try:
        return job.exception()
    except Exception as error:
        return error


def duration(seconds: float) -> str:
    """In words, to the second below two minutes, to the minute below two hours."""
    if seconds < 120:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def about_failure(job: Job, error: BaseException) -> str:
    """The last lines of the output of a job and where the rest is."""
    text = job.stderr() or str(error)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    lines = [f'    {line}' for line in lines[-LAST_LINES:]]
    return '\n'.join([str(job.paths.stderr), *lines])


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables that the processes started inside get."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
