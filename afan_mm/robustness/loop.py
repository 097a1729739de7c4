"""A test loop that evaluates every image twice: as it is, and perturbed to raise the model's
loss.
"""

import copy
import os.path as osp
from dataclasses import asdict
from typing import Any, Dict, List, Optional, Union

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmengine.runner.amp import autocast
from torch import Tensor
from torch.utils.data import DataLoader

from ..utils.checks import check_choice, check_integer
from ..utils.files import write_json
from ..utils.models import unwrapped
from ..visualization.predictions import draw_comparison
from .ground_truth import FRAMES, ground_truth_frame
from .pixel_attack import PixelAttack, name_of, split, try_one_image
from .report import merge, progress, render, robust_names, scalars
from .resume import UnfinishedRun, run_key
from .samples import describe
from .settings import AttackError, AttackSettings, library_of


@LOOPS.register_module()
class RobustTestLoop(TestLoop):
    """Stock metrics on clean and on perturbed images; ``test_cfg = dict(type='RobustTestLoop')``
    for the paper's protocol.

    Each image is predicted and attacked by itself, whatever the batch size: stock preprocessors pad
    a batch to its largest image, which changes predictions. The clean figures are those of the
    stock loop with batch size 1. Predictions on perturbed images go through a second evaluator;
    where a metric writes files, those of the perturbed images have ``_robust`` in their name.

    Figures go to the log as a table, to every visualizer backend and to the stock json file as
    ``clean/<metric>`` and ``robust/<metric>``, and with the protocol to ``robust.json`` in the work
    folder. An interrupted run goes on where it was saved last, if weights, config, protocol and
    data are the same.

    Args:
        runner, dataloader, evaluator: As of the stock loop; the evaluator as a dict or a list of
            dicts, since two are built.
        fp16: Predict in mixed precision. The attack always runs in float32. Defaults to False.
        ground_truth: The frame of the data samples' ground truth, one of
            :data:`~afan_mm.robustness.ground_truth.FRAMES`. Defaults to None, from the order of the
            pipeline's transforms.
        show_dir: Folder for pictures of both images and both predictions. Defaults to None, no
            pictures.
        show_interval: A picture of every n-th image. Defaults to 1.
        magnify: Factor on the perturbation in these pictures. Defaults to 10.
        save_interval: Save after every n-th batch what is done. Defaults to 20.
        log_interval: Where there is no terminal, log after every n-th image how long it will take.
            Defaults to 10.
        attack: The keys of :class:`~afan_mm.robustness.AttackSettings`; those not given are the
            paper's for the library: PGD-10, for detectors with step 0.3/255 and epsilon 2/255 (Sec.
            5, Table 6), for segmentors with step 1/255 and epsilon 8/255 (Sec. 6, Table 8). For
            classifiers, of which its text says none, PGD-10 with step 2/255 and epsilon 8/255.

    Raises:
        AttackError: Before anything is written, in one line: a key is wrong, or ground truth, the
            loss or a gradient is missing.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Union[DataLoader, dict],
        evaluator: Union[dict, List[dict]],
        fp16: bool = False,
        ground_truth: Optional[str] = None,
        show_dir: Optional[str] = None,
        show_interval: int = 1,
        magnify: float = 10.0,
        save_interval: int = 20,
        log_interval: int = 10,
        **attack: Any,
    ):
        try:
            check_choice('ground_truth', ground_truth, (None, *FRAMES))
            check_integer('show_interval', show_interval, 1)
            check_integer('save_interval', save_interval, 1)
            check_integer('log_interval', log_interval, 1)
        except ValueError as error:
            raise AttackError(str(error)) from error
        self.model = unwrapped(runner.model)
        library = library_of(self.model)
        self.settings = AttackSettings.for_library(library, **attack)
        if library == 'mmpretrain' and show_dir is not None:
            raise AttackError('show_dir draws boxes and maps of classes: a classifier has none')
        # the runner's config need not have them: an experiment gives them to the loop alone
        self.given = dict(dataloader=dataloader, evaluator=evaluator)
        about_robust = robust_names(evaluator)
        super().__init__(runner, dataloader, evaluator, fp16)
        self.robust_evaluator: Evaluator = runner.build_evaluator(about_robust)
        self.robust_evaluator.dataset_meta = self.evaluator.dataset_meta
        dataset = self.dataloader.dataset
        if ground_truth is None:  # a classifier's labels have no frame
            is_classifier = library == 'mmpretrain'
            ground_truth = 'input' if is_classifier else ground_truth_frame(dataset)
        self.attack = PixelAttack(self.model, self.settings, ground_truth)
        self.show_dir, self.show_interval, self.magnify = show_dir, show_interval, magnify
        self.save_interval, self.log_interval = save_interval, log_interval

    def run(self) -> Dict[str, Any]:
        """Evaluate; the metrics of both kinds."""
        try_one_image(self.attack, self.dataloader.dataset)
        self._log_start()
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        unfinished = self._resume()
        sampler = self.dataloader.sampler
        images = len(sampler) if hasattr(sampler, '__len__') else len(self.dataloader.dataset)
        with progress(self.runner.logger, images, self.done['images'], self.log_interval) as update:
            for index, batch in enumerate(self.dataloader):
                if index < self.done['batches']:
                    continue
                self.run_iter(index, batch)
                update(self.done['images'])
                if (index + 1) % self.save_interval == 0:
                    unfinished.save(self.done)
        metrics = self._evaluate()
        unfinished.remove()
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Dict[str, Any]) -> None:
        """Predict each image of a batch, perturb it, and predict it again."""
        self.runner.call_hook('before_test_iter', batch_idx=idx, data_batch=data_batch)
        outputs = []
        for image, sample in zip(*split(data_batch)):
            name = name_of(sample, f'{get_rank()}-{self.done["images"]}')
            clean = self._predict(self.evaluator, image, sample)
            attacked = self.attack(dict(inputs=image, data_samples=sample), [name])
            robust = self._predict(self.robust_evaluator, attacked.images[0], sample)
            if self.show_dir is not None and self.done['images'] % self.show_interval == 0:
                self._draw(
                    image, attacked.images[0], clean, robust, sample.metainfo.get('img_path', name)
                )
            outputs.append(clean)
            self.done['images'] += 1
            self.done['nonfinite'] += not attacked.finite[0]
        self.done['batches'] = idx + 1
        self.runner.call_hook(
            'after_test_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )

    def _predict(self, evaluator: Evaluator, image: Tensor, sample: Any) -> Any:
        """The host's prediction on one image, which the evaluator gets."""
        batch = dict(inputs=[image], data_samples=[copy.deepcopy(sample)])
        with autocast(enabled=self.fp16):
            (output,) = self.model.test_step(batch)
        evaluator.process(data_samples=[output], data_batch=batch)
        return output

    def _draw(
        self, clean: Tensor, perturbed: Tensor, clean_sample: Any, robust_sample: Any, name: str
    ) -> None:
        path = osp.join(self.show_dir, osp.splitext(osp.basename(name))[0] + '.png')
        draw_comparison(
            self.evaluator.dataset_meta,
            clean.float(),
            perturbed,
            clean_sample,
            robust_sample,
            self.magnify,
            path,
        )

    def _log_start(self) -> None:
        frame = dict(
            input='the input',
            original='the original image',
            stretched='the original image, which fills the input',
        )[self.attack.frame]
        self.runner.logger.info(
            f'robust evaluation: {self.settings}; ground truth is in the frame of {frame}'
        )

    def _resume(self) -> UnfinishedRun:
        cfg, log = self.runner.cfg, self.runner.logger.info
        # mmpretrain has the preprocessor beside the model
        parts = ('model', 'data_preprocessor', 'test_dataloader', 'test_evaluator')
        about = {key: cfg.get(key) for key in parts}
        key = run_key(
            self.model,
            settings=asdict(self.settings),
            fp16=self.fp16,
            frame=self.attack.frame,
            cfg=about,
            given=self.given,
            images=describe(self.dataloader.dataset),
            batches=len(self.dataloader),
            world_size=get_world_size(),
        )
        path = osp.join(self.runner.work_dir, f'unfinished_robust_{get_rank()}.pkl')
        unfinished = UnfinishedRun(path, key, [self.evaluator, self.robust_evaluator])
        state = unfinished.load()
        self.done = state or dict(batches=0, images=0, nonfinite=0)
        if state is not None:
            log(
                f'robust evaluation: goes on after {self.done["images"]} images of an interrupted '
                f'run ({path})'
            )
        elif not unfinished.possible:
            log(
                'robust evaluation: cannot go on after an interruption, since a metric keeps its '
                'results in a temporary folder; '
                'give it an outfile_prefix to change that'
            )
        elif osp.exists(path):
            log(f'robust evaluation: {path} is of another run, and is replaced')
        return unfinished

    def _evaluate(self) -> Dict[str, Any]:
        size = len(self.dataloader.dataset)
        runner = self.runner
        runner.logger.info('robust evaluation: metrics of the clean images')
        clean = self.evaluator.evaluate(size)
        runner.logger.info('robust evaluation: metrics of the perturbed images')
        robust = self.robust_evaluator.evaluate(size)
        nonfinite = torch.tensor(self.done['nonfinite'])
        all_reduce(nonfinite)
        nonfinite = int(nonfinite)
        if nonfinite:
            runner.logger.warning(
                f'robust evaluation: the gradient of {nonfinite} of {size} images was not finite; '
                'they were '
                'evaluated unperturbed'
            )
        runner.logger.info(f'\n{render(clean, robust, str(self.settings))}')
        runner.visualizer.add_scalars(scalars(merge(clean, robust)), step=0)
        if is_main_process():
            write_json(
                osp.join(runner.work_dir, 'robust.json'),
                dict(
                    protocol=asdict(self.settings),
                    checkpoint=runner.cfg.get('load_from'),
                    num_images=size,
                    num_nonfinite=nonfinite,
                    clean=scalars(clean),
                    robust=scalars(robust),
                ),
            )
        return merge(clean, robust)
