"""Arms and seeds: experiments whose outcome is a table with intervals and tests."""

from .arm_specs import ExperimentError
from .config import Experiment, read_experiment, select_arms
from .datasets import DataError
from .measures import MEASURES, Trained, measure
from .plan import Plan
from .plot import plot
from .report import markdown, write_report
from .results import collect
from .runner import run_experiment
from .scheduler import EXECUTORS, Scheduler
from .store import Store

__all__ = [
    'EXECUTORS',
    'MEASURES',
    'DataError',
    'Experiment',
    'ExperimentError',
    'Plan',
    'Scheduler',
    'Store',
    'Trained',
    'collect',
    'markdown',
    'measure',
    'plot',
    'read_experiment',
    'run_experiment',
    'select_arms',
    'write_report',
]
