"""Run an experiment to its end, or as far as it goes."""

from typing import Any, Callable, Dict, List, Sequence

from .plan import Plan, all_runs
from .scheduler import Scheduler


def run_experiment(
    plan: Plan,
    arms: Sequence[str],
    seeds: Sequence[int],
    scheduler: Scheduler,
    say: Callable[[str], None] = print,
) -> List[str]:
    """Run what is not stored yet; the names of the runs that failed or could not be started.

    Arms whose length is measured on others come after them.
    """
    failed: List[str] = []
    while True:
        late = [arm for arm in arms if plan.waits(arm)]
        specs = all_runs(plan, arms, seeds)
        todo = [
            spec
            for spec in specs
            if plan.record(spec) is None and f'{spec.arm} seed {spec.seed}' not in failed
        ]
        say(
            f'{plan.experiment.name}: {len(specs)} runs, {len(specs) - len(todo)} of them stored'
            + (f'; {", ".join(late)} will be as long as the others turn out' if late else '')
        )
        failed += scheduler.run(todo, known_seconds(plan.store.all()))
        if not late:
            return failed
        if not todo or [arm for arm in arms if plan.waits(arm)] == late:
            return failed + [
                f'{arm} (needs whole runs, timed alike, that it is measured by)' for arm in late
            ]


def known_seconds(records: Sequence[Dict[str, Any]]) -> Dict[str, float]:
    """Mean wall seconds of the stored runs of each arm."""
    found: Dict[str, List[float]] = {}
    for record in records:
        found.setdefault(record['arm'], []).append(record.get('wall', 0.0))
    return {arm: sum(each) / len(each) for arm, each in found.items()}
