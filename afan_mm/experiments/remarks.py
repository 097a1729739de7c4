"""What a report remarks of runs: that they differ, were interrupted, or have no finite figure."""

from typing import Any, Callable, Dict, List, Mapping, Sequence

from .notes import conditions

Records = Mapping[str, Mapping[int, dict]]  # by arm and seed


def not_finite(records: Records, names: Sequence[str]) -> List[str]:
    """The figures that were NaN or infinite, which are stored as none, in words."""
    return [
        f'{arm} seed {seed} {name}'
        for arm, runs in records.items()
        for seed, record in runs.items()
        for name in names
        if name in record['figures'] and record['figures'][name] is None
    ]


def resumed(records: Records) -> List[str]:
    """The runs that were interrupted, whose time and memory are known of their last part alone."""
    return [
        f'{arm} seed {seed}'
        for arm, runs in records.items()
        for seed, record in runs.items()
        if record['training'].get('resumed')
    ]


def timed_otherwise(records: Records) -> List[str]:
    """The seeds whose arms did not run alike, as far as that was noted, in words."""
    return differences(records, conditions)


def unpaired(records: Records) -> List[str]:
    """The seeds whose arms did not start from the same weights and batches, in words."""
    return differences(
        records,
        lambda training: {
            key.replace('_', ' '): training[key]
            for key in ('initial_weights', 'first_batches')
            if key in training
        },
    )


def differences(records: Records, look: Callable[[Dict[str, Any]], Dict[str, Any]]) -> List[str]:
    """The seeds whose arms differ in their trainings, in words.

    Args:
        look: What to compare of a training, by what it is called; what one lacks does not count.
    """
    found = []
    seeds = sorted({seed for runs in records.values() for seed in runs})
    for seed in seeds:
        looks = {arm: look(runs[seed]['training']) for arm, runs in records.items() if seed in runs}
        for name in dict.fromkeys(name for each in looks.values() for name in each):
            kinds: Dict[Any, List[str]] = {}
            for arm, each in looks.items():
                if name in each:
                    kinds.setdefault(each[name], []).append(arm)
            if len(kinds) > 1:
                groups = ' | '.join(', '.join(each) for each in kinds.values())
                found.append(f'seed {seed}: {name} differ: {groups}')
    return found
