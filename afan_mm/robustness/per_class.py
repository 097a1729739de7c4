"""A metric for each class: the mean hides one that a training lost."""

from typing import Any, Dict, List, Sequence, Tuple

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from .detection_calibration import check_boxes


@METRICS.register_module()
class PerClassMetric(BaseMetric):
    """What the hosts' metrics print of each class, as figures under the names of the classes.

    - Of a segmentor the intersection over union, in percent (``IoUMetric`` of mmseg).
    - Of a detector the average precision of the boxes, a fraction (``VOCMetric`` of mmdet). The
      test pipeline must load the true boxes, in the frame of the original image.
    - Of a classifier with one label for each image the recall, in percent (``SingleLabelMetric`` of
      mmpretrain).

    NaN for a class that the images do not have.

    Args:
        iou_thr: From which on a box is right, in (0, 1]. Defaults to 0.5.
        eval_mode: Of average precision, 'area' or '11points'. Defaults to 'area'.
        ignore_index: Label of pixels that do not count. Defaults to 255.
        kwargs: Of mmengine's ``BaseMetric``.
    """

    default_prefix = 'per_class'

    def __init__(
        self,
        iou_thr: float = 0.5,
        eval_mode: str = 'area',
        ignore_index: int = 255,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not 0 < iou_thr <= 1:
            raise ValueError(f'iou_thr must be a number in (0, 1], but got {iou_thr!r}')
        if eval_mode not in ('area', '11points'):
            raise ValueError(f"eval_mode must be 'area' or '11points', but got {eval_mode!r}")
        self.iou_thr, self.eval_mode, self.ignore_index = iou_thr, eval_mode, ignore_index
        self._tasks: Dict[str, Any] = {}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep of each image what the host's metric keeps of it, and which task it is of."""
        for sample in data_samples:
            name = next((key for key in TASKS if key in sample), None)
            if name is None or (name == 'pred_score' and len(sample.get('gt_label', ())) != 1):
                raise ValueError(
                    'PerClassMetric needs the outputs of a segmentor, a detector with boxes or a '
                    f'classifier with one label for each image, but got {sorted(sample)}'
                )
            if name == 'pred_instances':
                check_boxes(sample, type(self).__name__)
            host = self._task(name).metric
            host.dataset_meta = self.dataset_meta
            host.process(data_batch, [sample])
            self.results += [(name, kept) for kept in host.results]
            host.results = []

    def compute_metrics(self, results: List[Tuple[str, Any]]) -> Dict[str, float]:
        """Over all images."""
        classes = self.dataset_meta['classes']
        if not results:
            return dict.fromkeys(classes, float('nan'))
        (name, *_), kept = zip(*results)
        return dict(zip(classes, map(float, self._task(name).of_classes(kept))))

    def _task(self, name: str) -> Any:
        if name not in self._tasks:
            self._tasks[name] = TASKS[name](self)
        return self._tasks[name]


class _Segmentation:
    def __init__(self, settings: PerClassMetric):
        from mmseg.evaluation import IoUMetric  # only for segmentors

        self.metric = IoUMetric(ignore_index=settings.ignore_index, prefix='host')

    def of_classes(self, kept: Sequence[Any]) -> Sequence[float]:
        areas = (sum(each) for each in zip(*kept))
        return 100 * self.metric.total_area_to_metrics(*areas, ['mIoU'])['IoU']


class _Detection:
    def __init__(self, settings: PerClassMetric):
        from mmdet.evaluation import VOCMetric  # only for detectors

        self.metric = VOCMetric(float(settings.iou_thr), eval_mode=settings.eval_mode)

    def of_classes(self, kept: Sequence[Any]) -> Sequence[float]:
        from mmdet.evaluation import eval_map  # only for detectors

        truth, found = zip(*kept)
        _, classes = eval_map(
            found,
            truth,
            iou_thr=self.metric.iou_thrs[0],
            eval_mode=self.metric.eval_mode,
            logger='silent',
            nproc=1,
            use_legacy_coordinate=True,  # as VOCMetric
        )
        return [each['ap'] if each['num_gts'] else float('nan') for each in classes]


class _Classification:
    def __init__(self, settings: PerClassMetric):
        from mmpretrain.evaluation import SingleLabelMetric  # only for classifiers

        self.metric = SingleLabelMetric(items=('recall', 'support'), average=None)

    def of_classes(self, kept: Sequence[Any]) -> Sequence[float]:
        found = self.metric.compute_metrics(list(kept))
        return [
            recall if support else float('nan')
            for recall, support in zip(found['recall_classwise'], found['support_classwise'])
        ]


# by what a sample has of them
TASKS = dict(pred_sem_seg=_Segmentation, pred_instances=_Detection, pred_score=_Classification)
