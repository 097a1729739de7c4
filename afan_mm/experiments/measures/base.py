"""What a measure gets, and how one is added."""

import copy
import inspect
import json
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ...robustness import AttackSettings, CorruptionTestLoop, RobustTestLoop
from ...robustness.ground_truth import classifies_masks, ignored_label
from ...robustness.report import scalars
from ...utils.checks import check_integer

MEASURES: Dict[str, Callable[..., Dict[str, Any]]] = {}

# Endings of the names of figures that are better the smaller they are.
LOWER_IS_BETTER = (
    *('nll', 'ece', 'seconds', 'memory', 'loss'),
    'mMR',  # miss rate on CrowdHuman
    *('abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'log10', 'silog'),  # of depth
)
# what the metrics that measures need write before their figures: the config may have the same ones
MEASURED = 'measured'
PER_CLASS = f'{MEASURED}/per_class'
# the metric that a measure needs beside those of the config
METRIC_OF = dict(
    calibration='CalibrationMetric',
    nll='CalibrationMetric',
    detection_calibration='DetectionCalibrationMetric',
    per_class='PerClassMetric',
)
# whose settings a measure takes beside its own
HANDS_ON: Dict[str, tuple] = dict(
    robust=(RobustTestLoop, AttackSettings), corruptions=(CorruptionTestLoop,)
)


def measure(function: Callable[..., Dict[str, Any]]) -> Callable[..., Dict[str, Any]]:
    """Add a function to ``MEASURES`` under its name; a decorator.

    The function takes a :class:`Trained` and its settings as keywords, and gives figures by name,
    of Python, numpy or torch. The report writes the measure's name before theirs. What it gives
    under ``details`` is stored and left out of the statistics.
    """
    MEASURES[function.__name__] = function
    return function


def plain_figures(name: str, found: Any) -> Dict[str, Any]:
    """What a measure gave, as it can be stored: numbers and arrays of numpy and torch as Python's.

    Raises:
        TypeError: If it gave anything but single numbers and ``details`` that JSON can hold.
    """
    try:
        plain = json.loads(json.dumps(found, default=lambda each: each.tolist()))
        numbers = {key: value for key, value in plain.items() if key != 'details'}
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(f'measure {name} must give a dict of numbers, but got {found!r}') from error
    for key, value in numbers.items():
        if not isinstance(value, (int, float, type(None))):  # None was not finite
            raise TypeError(f'measure {name} must give a number as {key}, but got {value!r}')
    return plain


def larger_is_better(name: str) -> bool:
    """Of a figure of this name; that of a class may end as it likes."""
    return name.startswith('per_class/') or not name.endswith(LOWER_IS_BETTER)


def check_settings(name: str, settings: Dict[str, Any]) -> None:
    """Complain of settings that a measure does not have, before anything is trained.

    Raises:
        TypeError: If one is unknown, or one that it needs is absent.
        ValueError: If ``num_images`` is no number of images.
    """
    parameters = inspect.signature(MEASURES[name])
    parameters.bind(None, **settings)
    if name in HANDS_ON:
        if settings.get('num_images') is not None:
            check_integer('num_images', settings['num_images'], 1)
        known = [parameters, *map(inspect.signature, HANDS_ON[name])]
        unknown = sorted(
            key for key in settings if not any(key in each.parameters for each in known)
        )
        if unknown:
            raise TypeError(f'got an unexpected keyword argument {unknown[0]!r}')


@dataclass
class Trained:
    """A trained model and the images to measure it on.

    Attributes:
        runner: After training, with the model's weights.
        cfg: The arm's config.
        training: See :class:`~afan_mm.experiments.notes.Notes`.
        loader, evaluator: Configs of the half that is measured.
        names: Of all measures that are taken now.
    """

    runner: Runner
    cfg: Config
    training: Dict[str, Any]
    loader: dict
    evaluator: Any
    names: List[str] = field(default_factory=list)
    _clean: Dict[str, float] = field(default_factory=dict)

    def clean(self) -> Dict[str, float]:
        """The metrics of the config's evaluator and those that measures need beside them, from one
        pass over the images.
        """
        if not self._clean:
            metrics = self.evaluator
            metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
            needed = {METRIC_OF[name] for name in self.names if name in METRIC_OF}
            metrics += [self._metric(name) for name in sorted(needed)]
            self._clean = self.evaluate(evaluator=metrics)
        return self._clean

    def _metric(self, name: str) -> Dict[str, Any]:
        model = self.runner.model
        model = model.module if is_model_wrapper(model) else model
        ignored = dict(ignore_index=ignored_label(model))
        settings = dict(
            CalibrationMetric=dict(ignored, prefix=MEASURED, of_masks=classifies_masks(model)),
            DetectionCalibrationMetric=dict(prefix=MEASURED),
            PerClassMetric=dict(ignored, prefix=PER_CLASS),
        )
        return dict(settings[name], type=name)

    def evaluate(
        self,
        loader: Optional[dict] = None,
        evaluator: Any = None,
        test_cfg: Optional[dict] = None,
    ) -> Dict[str, float]:
        """Run a test loop; the metrics that are single numbers.

        Args:
            loader, evaluator, test_cfg: Other than those of the config.
        """
        runner = self.runner
        runner._test_dataloader = copy.deepcopy(loader or self.loader)
        runner._test_evaluator = copy.deepcopy(evaluator or self.evaluator)
        # hooks look it up while it runs
        runner._test_loop = runner.build_test_loop(
            dict(self.cfg.get('test_cfg') or {}) if test_cfg is None else test_cfg
        )
        return scalars(runner.test_loop.run())
