"""The figures of an experiment, compared."""

from dataclasses import asdict
from statistics import geometric_mean
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .arm_specs import ArmSpec, ExperimentError
from .comparisons import Figures, compare_all
from .config import Experiment
from .measures import larger_is_better
from .notes import timed_alike, working_seconds
from .plan import Plan
from .remarks import Records, not_finite, resumed, timed_otherwise, unpaired
from .statistics import summary


def collect(plan: Plan, arms: Sequence[str], seeds: Sequence[int]) -> Dict[str, Any]:
    """Everything that the report shows, as plain data.

    Returns:
        ``primary``, ``images`` (what is measured, in words), ``one_run`` (the arms that are), in
        words ``missing`` (runs that are not stored), ``not_finite`` (figures), ``unpaired`` (seeds
        whose arms started from other weights or data), ``resumed`` (runs that were interrupted) and
        ``timed_otherwise`` (seeds whose arms ran on other devices or with other threads);
        ``cost`` (by arm: time and memory relative to stock), ``training`` (by arm and seed),
        ``metrics``: by name the ``values`` by arm and seed, the ``summary`` of each arm,
        ``larger_is_better``, and the ``comparisons``.
    """
    records: Dict[str, Dict[int, dict]] = {arm: {} for arm in arms}
    runs: Dict[str, Tuple[Any, ...]] = {}
    missing: Dict[Any, str] = {}
    for arm in arms:
        specs = [] if plan.waits(arm) else [plan.spec(arm, seed) for seed in seeds]
        runs[arm] = tuple((spec.key, *spec.measures) for spec in specs) or (arm,)
        if not specs:
            missing.update({f'{arm} {seed}': f'{arm} seed {seed}' for seed in seeds})
        for spec in specs:
            record = plan.record(spec)
            if record is None:
                missing.setdefault((spec.key, *spec.measures), f'{arm} seed {spec.seed}')
                continue
            figures: Dict[str, float] = {}
            for key in spec.measures:
                figures.update(record['measured'][key]['figures'])
            records[arm][spec.seed] = dict(figures=figures, training=record['training'])
    experiment = plan.experiment
    names = metric_names(experiment, records)
    groups = [[arm for arm in arms if runs[arm] == each] for each in dict.fromkeys(runs.values())]
    # of arms that are one run, the first
    distinct = {group[0]: records[group[0]] for group in groups}
    return dict(
        experiment=experiment.name,
        half=plan.half,
        images=sorted({plan.images(arm) for arm in arms if not plan.waits(arm)}),
        seeds=list(seeds),
        arms={arm: dict(_about_arm(experiment.arms[arm]), factor=plan.factor(arm)) for arm in arms},
        primary=names[0] if names else None,
        one_run=[group for group in groups if len(group) > 1],
        missing=list(missing.values()),
        not_finite=not_finite(distinct, names),
        unpaired=unpaired(records),
        resumed=resumed(distinct),
        timed_otherwise=timed_otherwise(distinct),
        cost=relative_cost(records),
        training={a: {s: r['training'] for s, r in found.items()} for a, found in records.items()},
        metrics={
            name: _about_metric(experiment, name, records, name == names[0], runs) for name in names
        },
    )


def metric_names(experiment: Experiment, records: Records) -> List[str]:
    """The primary metric and the others of the report, by their full names."""
    found: List[str] = []
    for runs in records.values():
        for record in runs.values():
            found += [name for name in record['figures'] if name not in found]
    if not found:
        return []
    primary = full_name(experiment.primary or found[0], found, 'primary')
    default = [name for name in found if not name.startswith('cost/')]  # has its own columns
    others = [full_name(name, found) for name in experiment.metrics or default]
    return [primary, *(name for name in dict.fromkeys(others) if name != primary)]


def full_name(name: str, names: Sequence[str], key: str = 'metrics') -> str:
    """As :func:`find_name`; ExperimentError, with the key that asks for it, where there is none."""
    found = find_name(name, names)
    if found is None:
        raise ExperimentError(f'{key} must be among {", ".join(names)}, but got {name!r}')
    return found


def find_name(name: str, names: Sequence[str]) -> Optional[str]:
    """The metric that is called so, or the shortest that ends so after a '/', or None."""
    if name in names:
        return name
    return min((each for each in names if each.endswith(f'/{name}')), key=len, default=None)


def _about_metric(
    experiment: Experiment,
    name: str,
    records: Records,
    primary: bool,
    runs: Mapping[str, Any],
) -> Dict[str, Any]:
    values: Figures = {
        arm: {
            seed: record['figures'][name]
            for seed, record in found.items()
            if record['figures'].get(name) is not None  # absent, or not finite
        }
        for arm, found in records.items()
    }
    larger = experiment.larger_is_better if primary else None
    if larger is None:
        larger = larger_is_better(name)
    comparisons = compare_all(experiment, values, larger, runs)
    return dict(
        values=values,
        summary={arm: summary(list(each.values())) for arm, each in values.items() if each},
        larger_is_better=larger,
        comparisons=[asdict(each) for each in comparisons],
    )


def relative_cost(records: Records) -> Dict[str, Dict[str, float]]:
    """Training time and peak memory of each arm over stock's, geometric means over the seeds in
    which neither was interrupted and both ran alike; nothing without an arm 'stock'.
    """
    whole = {
        arm: {s: run['training'] for s, run in runs.items() if not run['training'].get('resumed')}
        for arm, runs in records.items()
    }
    stock = whole.get('stock', {})
    cost: Dict[str, Dict[str, float]] = {}
    for arm, runs in whole.items():
        pairs = [(runs[s], stock[s]) for s in runs if s in stock and timed_alike(runs[s], stock[s])]
        if pairs:
            cost[arm] = dict(
                time=geometric_mean([working_seconds(a) / working_seconds(b) for a, b in pairs]),
                memory=geometric_mean([a['memory'] / b['memory'] for a, b in pairs]),
            )
    return cost


def _about_arm(arm: ArmSpec) -> Dict[str, Any]:
    return dict(reference=arm.reference, of=arm.of, parent=arm.parent)
