"""Two processes of a robust evaluation that are killed between their saves, and go on together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import torch
from mmengine.dist import all_reduce

from afan_mm.robustness.resume import UnfinishedRun
from support.fast_python import python

BATCHES, SAVED_EVERY, LAST = 6, 2, 3
SECONDS = 120


class Metric:
    tmp_dir = None

    def __init__(self):
        self.results = []


class Evaluator:
    def __init__(self, metric):
        self.metrics = [metric]


def evaluate(rank, port, folder, is_killed):
    """What the loop does, with a loss that averages over the ranks."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2
    )
    metric = Metric()
    run = UnfinishedRun(os.path.join(folder, f'{rank}.pkl'), 'key', [Evaluator(metric)])
    state = run.load() or dict(batches=0)
    start = state['batches']
    for batch in range(start, BATCHES):
        loss = torch.tensor([10.0 * batch + rank])
        all_reduce(loss)
        metric.results.append(float(loss))
        state['batches'] = batch + 1
        if is_killed and batch == LAST and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if (batch + 1) % SAVED_EVERY == 0:
            run.save(state)
            print('saved', batch + 1, flush=True)
    print(json.dumps([start, metric.results]))


def started(folder, is_killed):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS='1')
    arguments = [str(port), str(folder), 'killed' if is_killed else '']
    return [
        subprocess.Popen(
            [python(), __file__, str(rank), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def stopped(processes):
    for process in processes:
        process.kill()
        process.communicate()


def test_killed_between_two_saves_they_do_not_wait_for_each_other(tmp_path):
    first = started(tmp_path, True)
    try:
        assert first[1].wait(SECONDS) != 0
        assert [first[0].stdout.readline() for _ in range(2)] == ['saved 2\n', 'saved 4\n']
    finally:
        stopped(first)
    second = started(tmp_path, False)
    try:
        end = time.monotonic() + SECONDS
        said = [process.communicate(timeout=end - time.monotonic()) for process in second]
    finally:
        stopped(second)
    found = [json.loads(out.splitlines()[-1]) for out, _ in said]
    # the first one had saved four batches, the other two
    assert found == [[2, [20.0 * batch + 1 for batch in range(BATCHES)]]] * 2


if __name__ == '__main__':
    evaluate(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == 'killed')
