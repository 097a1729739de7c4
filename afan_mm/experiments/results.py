"""The figures of an experiment, compared."""

from dataclasses import asdict
from statistics import geometric_mean
from typing import Any, Dict, List, Mapping, Sequence

from .arm_specs import ArmSpec, ExperimentError
from .config import Experiment
from .measures import LOWER_IS_BETTER
from .notes import working_seconds
from .plan import Plan
from .statistics import Comparison, compare, correct, summary

Figures = Dict[str, Dict[int, float]]  # by arm and seed


def collect(plan: Plan, arms: Sequence[str], seeds: Sequence[int]) -> Dict[str, Any]:
    """Everything that the report shows, as plain data.

    Returns:
        ``primary``, ``images`` (what is measured, in words), ``missing`` (runs that are not
        stored), ``unpaired`` (seeds whose arms started from other weights or data), ``cost`` (by
        arm: time and memory relative to stock), ``training`` (by arm and seed), ``metrics``: by
        name the ``values`` by arm and seed, the ``summary`` of each arm, ``larger_is_better``, and
        the ``comparisons``.
    """
    records: Dict[str, Dict[int, dict]] = {arm: {} for arm in arms}
    missing = []
    for arm in arms:
        for seed in seeds:
            spec = None if plan.waits(arm) else plan.spec(arm, seed)
            record = None if spec is None else plan.record(spec)
            if record is None:
                missing.append(f'{arm} seed {seed}')
                continue
            figures: Dict[str, float] = {}
            for key in spec.measures:
                figures.update(record['measured'][key]['figures'])
            records[arm][seed] = dict(figures=figures, training=record['training'])
    experiment = plan.experiment
    names = metric_names(experiment, records)
    metrics = {name: _about_metric(experiment, name, records, name == names[0]) for name in names}
    return dict(
        experiment=experiment.name,
        half=plan.half,
        images=sorted({plan.images(arm) for arm in arms if not plan.waits(arm)}),
        seeds=list(seeds),
        arms={arm: dict(_about_arm(experiment.arms[arm]), factor=plan.factor(arm)) for arm in arms},
        primary=names[0] if names else None,
        missing=missing,
        unpaired=unpaired(records),
        cost=relative_cost(records),
        training={a: {s: r['training'] for s, r in runs.items()} for a, runs in records.items()},
        metrics=metrics,
    )


def metric_names(experiment: Experiment, records: Mapping[str, Mapping[int, dict]]) -> List[str]:
    """The primary metric and the others of the report, by their full names."""
    found: List[str] = []
    for runs in records.values():
        for record in runs.values():
            found += [name for name in record['figures'] if name not in found]
    if not found:
        return []
    primary = full_name(experiment.primary or found[0], found)
    default = [name for name in found if not name.startswith('cost/')]  # has its own columns
    others = [full_name(name, found) for name in experiment.metrics or default]
    return [primary, *(name for name in dict.fromkeys(others) if name != primary)]


def full_name(name: str, names: Sequence[str]) -> str:
    """The metric that is called so, or the shortest that ends so after a '/'."""
    if name in names:
        return name
    endings = sorted((each for each in names if each.endswith(f'/{name}')), key=len)
    if not endings:
        raise ExperimentError(f'metrics must be among {", ".join(names)}, but got {name!r}')
    return endings[0]


def applies(arm: ArmSpec, reference: ArmSpec) -> bool:
    """Whether an arm is compared with a reference: with its own, and with those of no arm in
    particular. What is varied in a grid has the references of the arm it varies.
    """
    if reference.of is None:
        return True
    return reference.of in (arm.name, arm.parent)


def _about_metric(
    experiment: Experiment,
    name: str,
    records: Mapping[str, Mapping[int, dict]],
    primary: bool,
) -> Dict[str, Any]:
    values: Figures = {
        arm: {
            seed: record['figures'][name]
            for seed, record in runs.items()
            if record['figures'].get(name) is not None  # absent, or not finite when stored
        }
        for arm, runs in records.items()
    }
    larger = experiment.larger_is_better if primary else not name.endswith(LOWER_IS_BETTER)
    comparisons = compare_all(experiment, values, larger)
    return dict(
        values=values,
        summary={arm: summary(list(each.values())) for arm, each in values.items() if each},
        larger_is_better=larger,
        comparisons=[asdict(each) for each in comparisons],
    )


def compare_all(experiment: Experiment, values: Figures, larger: bool) -> List[Comparison]:
    """Each arm with each of its references. The arms of one reference are a family for Holm's
    correction; references among themselves are another.
    """
    found: List[Comparison] = []
    for name in values:
        reference = experiment.arms[name]
        if not {name, reference.reference} & set(experiment.references):
            continue
        for among_references in (False, True):
            family = [
                compare(arm, name, values[arm], values[name])
                for arm in values
                if arm != name
                and (experiment.arms[arm].reference is not None) == among_references
                and (
                    reference.reference == 'stock'
                    if among_references
                    else applies(experiment.arms[arm], reference)
                )
            ]
            correct(family, larger)
            found += family
    return found


def relative_cost(records: Mapping[str, Mapping[int, dict]]) -> Dict[str, Dict[str, float]]:
    """Training time and peak memory of each arm over stock's, geometric means over the seeds that
    both have; nothing without an arm 'stock'.
    """
    stock = records.get('stock', {})
    cost: Dict[str, Dict[str, float]] = {}
    for arm, runs in records.items():
        pairs = [(runs[s]['training'], stock[s]['training']) for s in runs if s in stock]
        if pairs:
            cost[arm] = dict(
                time=geometric_mean([working_seconds(a) / working_seconds(b) for a, b in pairs]),
                memory=geometric_mean([a['memory'] / b['memory'] for a, b in pairs]),
            )
    return cost


def unpaired(records: Mapping[str, Mapping[int, dict]]) -> List[str]:
    """The seeds whose arms did not start from the same weights and batches, in words."""
    found = []
    seeds = sorted({seed for runs in records.values() for seed in runs})
    for seed in seeds:
        for key in ('initial_weights', 'first_batches'):
            kinds: Dict[str, List[str]] = {}
            for arm, runs in records.items():
                if seed in runs and key in runs[seed]['training']:
                    kinds.setdefault(runs[seed]['training'][key], []).append(arm)
            if len(kinds) > 1:
                groups = ' | '.join(', '.join(each) for each in kinds.values())
                found.append(f'seed {seed}: {key.replace("_", " ")} differ: {groups}')
    return found


def _about_arm(arm: ArmSpec) -> Dict[str, Any]:
    return dict(reference=arm.reference, of=arm.of, parent=arm.parent)
