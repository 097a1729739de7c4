"""Which arms of an experiment are compared with which references."""

from dataclasses import replace
from typing import Any, Dict, List, Mapping

from .arm_specs import ArmSpec
from .config import Experiment
from .statistics import Comparison, compare, correct

Figures = Dict[str, Dict[int, float]]  # by arm and seed


def compare_all(
    experiment: Experiment, values: Figures, larger: bool, runs: Mapping[str, Any]
) -> List[Comparison]:
    """Each arm with each of its references. The arms of one reference are a family for Holm's
    correction; references among themselves are another. Arms that are one run count once in a
    family and share its figures, and none is compared with itself under another name.

    Args:
        larger: Whether larger figures are better.
        runs: By arm what tells its runs from those of other arms.
    """
    found: List[Comparison] = []
    for name in values:
        reference = experiment.arms[name]
        if not {name, reference.reference} & set(experiment.references):
            continue
        for among_references in (False, True):
            members = [
                arm
                for arm in values
                if runs[arm] != runs[name]
                and (experiment.arms[arm].reference is not None) == among_references
                and (
                    reference.reference == 'stock'
                    if among_references
                    else applies(experiment.arms[arm], reference)
                )
            ]
            family: Dict[Any, Comparison] = {}
            for arm in members:
                if runs[arm] not in family:
                    family[runs[arm]] = compare(arm, name, values[arm], values[name])
            correct(list(family.values()), larger)
            found += [replace(family[runs[arm]], arm=arm) for arm in members]
    return found


def applies(arm: ArmSpec, reference: ArmSpec) -> bool:
    """Whether an arm is compared with a reference: with its own, and with those of no arm in
    particular. What is varied in a grid has the references of the arm it varies.
    """
    if reference.of is None:
        return True
    return reference.of in (arm.name, arm.parent)
