"""A test loop that evaluates clean images and every corruption of them."""

import copy
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence, Union

from mmengine.dist import is_main_process
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from torch.utils.data import Dataset

from ..utils.configs import image_datasets, type_name
from ..utils.files import write_json
from .corruption_report import plot, render
from .corruptions import (
    SEVERITIES,
    CommonCorruption,
    CorruptionError,
    Performance,
    corruption_names,
    main_metric,
    summarize,
)
from .report import scalars


@LOOPS.register_module()
class CorruptionTestLoop(TestLoop):
    """``test_cfg = dict(type='CorruptionTestLoop')``: the stock metrics on clean and on corrupted
    images, see :mod:`.corruptions`.

    The log gets a table, the work folder ``corruptions.json`` with every metric at every severity
    and the picture ``corruptions.png``. The result holds the clean metrics under their names, and
    ``corruption/mPC``, ``corruption/rPC`` and ``corruption/<name>``.

    Args:
        runner, evaluator, fp16: As of the stock loop.
        dataloader: As a dict, since the corruption goes into its pipeline, behind the transform
            that loads the image.
        corruptions: Names; defaults to None, the fifteen of the benchmark.
        severities: Defaults to 1 to 5.
        metric: What mPC is taken of; defaults to None, the one that the task is judged by.

    Raises:
        CorruptionError: A name or a severity is unknown, or there is no place for a corruption.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        evaluator: Union[dict, List[dict]],
        fp16: bool = False,
        corruptions: Optional[Sequence[str]] = None,
        severities: Sequence[int] = SEVERITIES,
        metric: Optional[str] = None,
    ):
        self.corruptions = list(corruptions or corruption_names())
        self.severities, self.metric = list(severities), metric
        if not self.severities:
            raise CorruptionError(f'severities must be some of {SEVERITIES}, but got none')
        for corruption in self.corruptions:  # complains about what is unknown
            for severity in self.severities:
                CommonCorruption(corruption, severity)
        super().__init__(runner, with_corruption(dataloader), evaluator, fp16)
        self._places = find_corruptions(self.dataloader.dataset)

    def run(self) -> Dict[str, Any]:
        """Evaluate all of them; the clean metrics and the means over the corruptions."""
        log = self.runner.logger.info
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        clean = self._evaluate(None, 1)
        metric = self.metric or main_metric(list(clean))
        if metric not in clean:
            raise CorruptionError(f'metric must be one of {", ".join(clean)}, but got {metric!r}')
        corrupted: Performance = {}
        for corruption in self.corruptions:
            for severity in self.severities:
                found = self._evaluate(corruption, severity)
                corrupted[corruption, severity] = found
                log(f'corruption {corruption}, severity {severity}: {metric} {found[metric]:.4g}')
        figures = summarize(clean, corrupted, metric)
        log(f'\n{render(clean, corrupted, metric)}')
        self._write(metric, clean, corrupted, figures)
        figures.pop('clean')
        metrics = {**clean, **{f'corruption/{key}': value for key, value in figures.items()}}
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _evaluate(self, corruption: Optional[str], severity: int) -> Dict[str, float]:
        for place in self._places:
            place.corruption, place.severity = corruption, severity
        for index, batch in enumerate(self.dataloader):  # workers start here, with this corruption
            self.run_iter(index, batch)
        return scalars(self.evaluator.evaluate(len(self.dataloader.dataset)))

    def _write(
        self,
        metric: str,
        clean: Dict[str, float],
        corrupted: Performance,
        figures: Dict[str, float],
    ) -> None:
        if not is_main_process():
            return
        table: Dict[str, Dict[int, Dict[str, float]]] = {}
        for (corruption, severity), metrics in corrupted.items():
            table.setdefault(corruption, {})[severity] = metrics
        folder = self.runner.work_dir
        write_json(
            osp.join(folder, 'corruptions.json'),
            dict(
                metric=metric,
                checkpoint=self.runner.cfg.get('load_from'),
                num_images=len(self.dataloader.dataset),
                summary=figures,
                clean=clean,
                corrupted=table,
            ),
        )
        plot(metric, clean, corrupted, osp.join(folder, 'corruptions.png'))


def with_corruption(dataloader: dict) -> dict:
    """A dataloader config with a :class:`CommonCorruption` behind each transform that loads an
    image; its workers end with each pass, so that they see a change of the corruption.
    """
    dataloader = copy.deepcopy(dataloader)
    dataloader['persistent_workers'] = False
    for dataset in image_datasets(dataloader['dataset']):
        pipeline = list(dataset.get('pipeline') or [])
        kinds = [type_name(each) for each in pipeline]
        places = [index for index, kind in enumerate(kinds) if kind.startswith('LoadImage')]
        if not places:
            raise CorruptionError(
                f'corruptions need a test pipeline with a LoadImage… transform, but got {kinds}'
            )
        pipeline.insert(places[0] + 1, dict(type='CommonCorruption'))
        dataset['pipeline'] = pipeline
    return dataloader


def find_corruptions(dataset: Dataset) -> List[CommonCorruption]:
    """Those in the pipelines of a dataset, or of the ones that it holds."""
    if hasattr(dataset, 'datasets'):
        return [each for part in dataset.datasets for each in find_corruptions(part)]
    if not hasattr(dataset, 'pipeline'):
        return find_corruptions(dataset.dataset)
    return [each for each in dataset.pipeline.transforms if isinstance(each, CommonCorruption)]
