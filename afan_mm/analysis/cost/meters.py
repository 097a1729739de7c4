"""Time, peak memory and parts of a training step."""

import random
import statistics
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Tuple
from unittest import mock

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

Seconds = Dict[Any, float]


def measure_rounds(
    runs: Dict[str, Callable[[], Seconds]],
    baseline: str,
    rounds: int,
    seed: int,
    tick: Callable[[], None],
) -> Tuple[Dict[Any, List[float]], List[float]]:
    """Run everything once in each round, in random order, and compare it with the baseline of the
    same round.

    Args:
        runs: By name; each call does its work once and returns seconds, by name. The baseline
            returns its own name only.
        baseline: The run that opens, halves and closes every round.
        rounds: How many.
        seed: Of the order.
        tick: Called after every run.

    Returns:
        For every name that a run returned, the ratios of its seconds to the median of the
        baseline's in that round (the baseline's own show how steady the machine was), and these
        medians.
    """
    shuffler, ratios, units = random.Random(seed), defaultdict(list), []
    for _ in range(rounds):
        order = [name for name in runs if name != baseline]
        shuffler.shuffle(order)
        half = len(order) // 2
        seconds: Dict[Any, List[float]] = defaultdict(list)
        for name in [baseline, *order[:half], baseline, *order[half:], baseline]:
            for key, value in runs[name]().items():
                seconds[key].append(value)
            tick()
        units.append(statistics.median(seconds[baseline]))
        for key, values in seconds.items():
            ratios[key].extend(value / units[-1] for value in values)
    return dict(ratios), units


def timed(step: Callable[[], Any], device: torch.device) -> float:
    """Seconds that ``step`` takes, with all its work on the device."""
    start = now(device)
    step()
    return now(device) - start


def now(device: torch.device) -> float:
    """Seconds since some moment, with all work on the device so far.

    With one thread of a CPU those that this process had it for, whatever else the machine does;
    with several, which wait for each other, those of the clock.
    """
    synchronize(device)
    alone = device.type == 'cpu' and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_memory(step: Callable[[], Any], device: torch.device) -> int:
    """Bytes that tensors take at most during ``step``, above what they took before.

    The count is that of the allocator on a GPU, and that of the profiler on a CPU.
    """
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    # The profiler's tables sum allocations over each operator; only the events beneath say what was
    # held at a time.
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]'
    ]
    # Old torch has no start_ns.
    events.sort(
        key=lambda event: event.start_ns() if hasattr(event, 'start_ns') else event.start_us()
    )
    held = peak = 0
    for event in events:
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def held_memory(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, buffers and the optimizer's state."""
    state = [
        value
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor)
    ]
    return sum(
        tensor.numel() * tensor.element_size()
        for tensor in (*model.parameters(), *model.buffers(), *state)
    )


class LabelClock:
    """Seconds inside each ``record_function`` label, less those inside the labels within it.

    The labels are read here and not from a trace: an autograd thread runs what a backward calls,
        and a GPU runs it later.
    """

    def __init__(self, device: torch.device):
        self.seconds: Counter = Counter()
        self._device = device
        self._open: List[str] = []
        self._since = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, every label of this process is timed."""
        enter, leave = record_function.__enter__, record_function.__exit__

        def timed_enter(label: record_function) -> record_function:
            self._switch(lambda: self._open.append(label.name))
            return enter(label)

        def timed_leave(label: record_function, *error: Any) -> None:
            self._switch(self._open.pop)
            return leave(label, *error)

        with mock.patch.multiple(record_function, __enter__=timed_enter, __exit__=timed_leave):
            yield

    def _switch(self, change: Callable[[], Any]) -> None:
        moment = now(self._device)
        if self._open:
            self.seconds[self._open[-1]] += moment - self._since
        change()
        self._since = moment
