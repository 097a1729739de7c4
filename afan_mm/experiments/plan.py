"""From an experiment to its runs."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config

from ..utils.files import write_json
from .arm_specs import ExperimentError
from .arms import Arms
from .config import Experiment
from .data import Evaluation, innermost
from .datasets import Datasets
from .measures import HANDS_ON, MEASURES, check_settings
from .notes import seconds_per_iteration, timed_alike
from .run import RunSpec, missing
from .sources import environment, imported_modules, measure_digests, training_parts
from .store import Store, digest


class Plan:
    """The runs of an experiment.

    Args:
        half: Whose images are measured: 'selection', 'report' or 'all'.
        threads: Of each run.
    """

    def __init__(
        self, experiment: Experiment, store: Store, half: str = 'report', threads: int = 1
    ):
        self.experiment, self.store, self.half, self.threads = experiment, store, half, threads
        self.arms, self.datasets = Arms(experiment), Datasets()
        self.evaluation = Evaluation(self.datasets, experiment.selection, store.folder / 'halves')
        self._keys: Dict[str, str] = {}
        for each in experiment.measures:
            check_measure(dict(each))

    def waits(self, name: str) -> bool:
        """Whether an arm's length depends on runs that are not stored yet."""
        return self.arms.needs_factor(name) and self._factor(name) is None

    def spec(self, name: str, seed: int) -> RunSpec:
        """The run of an arm with a seed; its config is read and its data are looked at."""
        cfg = self._config(name)
        loader, evaluator = self.evaluation.images(cfg, self.half)
        check_choice(self.experiment.measures, loader['dataset'])
        curve = None
        if self.experiment.curve_interval:
            images = self.evaluation.images(cfg, 'selection')
            curve = dict(zip(('loader', 'evaluator'), images))
            curve['interval'] = self.experiment.curve_interval
        versions = environment(cfg)
        about = dict(
            config=training_parts(cfg),
            randomness=dict(cfg.get('randomness') or {}, seed=seed),
            environment=versions,
            data=self.datasets.about(cfg, cfg.train_dataloader.dataset),
            curve=self._placeless(curve),
        )
        measured_on = dict(
            loader=loader,
            evaluator=self._placeless(evaluator),
            data=self.datasets.about(cfg, loader['dataset']),
            test_cfg=cfg.get('test_cfg'),
        )
        return RunSpec(
            store=str(self.store.folder),
            key=self._key(name, f'{seed}-{digest(about)}'),
            experiment=self.experiment.name,
            arm=name,
            seed=seed,
            cfg=cfg.to_dict(),
            evaluation=dict(loader=loader, evaluator=evaluator),
            measures={
                f'{each["type"]}-{digest([each, measured_on, *measure_digests(each)])}': each
                for each in self.experiment.measures
            },
            environment=versions,
            curve=curve,
            threads=self.threads,
            keep_checkpoints=self.experiment.keep_checkpoints,
            imports=imported_modules(self.experiment.custom_imports),
        )

    def record(self, spec: RunSpec) -> Optional[Dict[str, Any]]:
        """What is stored of a run, None unless every measure is there."""
        record = self.store.load(spec.key)
        return None if record is None or missing(spec, record) else record

    def factor(self, name: str) -> Optional[float]:
        """How many times the iterations of its config an arm has; None where nothing is said of
        it, and until that of a 'longer' arm is known.
        """
        factor = self.experiment.arms[name].factor
        return self._factor(name) if self.arms.needs_factor(name) else factor

    def images(self, name: str) -> str:
        """What an arm is measured on, in words."""
        return self.evaluation.where(self._config(name), self.half)

    def _placeless(self, node: Any) -> Any:
        """A copy in which files of the store have their names alone, wherever the store is."""
        if isinstance(node, dict):
            return {key: self._placeless(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [self._placeless(each) for each in node]
        inside = isinstance(node, str) and self.store.folder in Path(node).parents
        return Path(node).name if inside else node

    def _key(self, name: str, run: str) -> str:
        """The key of a run: that under which the store has it, of whatever arm, otherwise that of
        the arm it was first asked for. Two arms of one config are one run, as the panels of an
        ablation share the setting that they vary.
        """
        own = self._keys.setdefault(run, f'{name}-{run}')
        return self.store.find(run) or own

    def _config(self, name: str) -> Config:
        return self.arms.config(name, self._factor(name) if self.arms.needs_factor(name) else None)

    def _factor(self, name: str) -> Optional[float]:
        """Time of an iteration of the arm over one of stock, from the first seed of which neither
        was interrupted and both ran alike, as the runs were stored when it was first asked for;
        kept, so that the arm's length does not change later.
        """
        other = self.experiment.arms[name].of
        if 'stock' not in self.experiment.arms:
            raise ExperimentError(f"arm {name} needs a factor, or an arm 'stock' to measure it by")
        pairs = (
            [self.spec(arm, seed) for arm in ('stock', other)] for seed in self.experiment.seeds
        )
        path = None
        for pair in pairs:
            # by the first seed's runs, whichever it is measured on
            path = path or self._factor_file([spec.key for spec in pair])
            if path.exists():
                return json.loads(path.read_text())['factor']
            records = [self.record(spec) for spec in pair]
            if None in records:
                return None
            stock, theirs = (record['training'] for record in records)
            whole = not (stock.get('resumed') or theirs.get('resumed'))
            if whole and timed_alike(stock, theirs):
                factor = round(seconds_per_iteration(theirs) / seconds_per_iteration(stock), 3)
                write_json(path, dict(factor=factor, arm=other, stock='stock'))
                return factor
        return None

    def _factor_file(self, keys: List[str]) -> Path:
        return self.store.folder / 'factors' / f'{digest([keys])}.json'


def check_measure(settings: Dict[str, Any]) -> None:
    """ExperimentError where there is no such measure, or it has no such settings."""
    name = settings.pop('type', None)
    if name not in MEASURES:
        raise ExperimentError(f'measures must be among {sorted(MEASURES)}, but got {name!r}')
    try:
        check_settings(name, settings)
    except (TypeError, ValueError) as error:
        raise ExperimentError(f'measure {name} with {settings}: {error}') from error


def check_choice(measures: Sequence[dict], dataset: dict) -> None:
    """DataError where a measure is to choose some images of a dataset and cannot."""
    for measure in measures:
        if measure['type'] in HANDS_ON and measure.get('num_images') is not None:
            innermost(dataset, 'num_images')


def all_runs(plan: Plan, arms: Sequence[str], seeds: Sequence[int]) -> List[RunSpec]:
    """The runs of these arms and seeds that can be started by now, seed after seed, so that whoever
    stops early has whole pairs; arms that are one run, measured alike, are there once.
    """
    runs: Dict[Tuple[str, ...], RunSpec] = {}
    for seed in seeds:
        for arm in arms:
            if not plan.waits(arm):
                spec = plan.spec(arm, seed)
                runs.setdefault((spec.key, *spec.measures), spec)
    return list(runs.values())
