"""The hook that draws what the perturbations do to features."""

from typing import Any, Optional, Sequence

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils.checks import check_choice, check_integer, check_number
from ..utils.models import unwrapped
from ..visualization import CHANNELS, capture, choose_view, draw_site, first_sample, to_rgb
from .optim_wrapper import AFANOptimMixin


@HOOKS.register_module()
class AFANFeatureMapHook(Hook):
    """Draw what A-FAN does to the features of the first sample of the current batch, as in the
    paper's Figures 7 to 9.

    Each site's picture goes to every visualiser backend as ``afan_<site>``. Training goes on as
    without the hook, to the bit. The features are those of the updated parameters, in evaluation
    mode and full precision. Every rank computes them (a loss may average over the ranks), the first
    one draws.

    Args:
        interval: Iterations between two pictures. Defaults to 1000.
        num_strengths: Evenly spaced strengths up to epsilon. Defaults to None, the number of each
            site.
        magnify: Factor on the perturbation. Defaults to 20, as in the paper.
        sites: Names of the sites. Defaults to None, all that are switched on.
        channels: 'squeeze_mean', 'select_max' or 'topk', see
            :func:`~afan_mm.visualization.choose_view`. Defaults to 'squeeze_mean'.
        topk: Channels of ``channels='topk'``. Defaults to 9.
        alpha: Weight of a map over the image. Defaults to 1, the map alone.
    """

    def __init__(
        self,
        interval: int = 1000,
        num_strengths: Optional[int] = None,
        magnify: float = 20.0,
        sites: Optional[Sequence[str]] = None,
        channels: str = 'squeeze_mean',
        topk: int = 9,
        alpha: float = 1.0,
    ):
        of_hook = 'of AFANFeatureMapHook'
        counts = dict(interval=interval, num_strengths=num_strengths, topk=topk)
        for name, value in counts.items():
            if name != 'num_strengths' or value is not None:
                check_integer(f'{name} {of_hook}', value, 1)
        check_number(f'alpha {of_hook}', alpha, 0, 1, above=True)
        check_number(f'magnify {of_hook}', magnify, above=True)
        check_choice(f'channels {of_hook}', channels, CHANNELS)
        if isinstance(sites, str):
            raise TypeError(
                f'sites of AFANFeatureMapHook must be a list of names, but got {sites!r}'
            )
        self.interval = interval
        self.num_strengths = num_strengths
        self.magnify = magnify
        self.sites = sites
        self.view = dict(channels=channels, topk=topk)
        self.alpha = alpha

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[Any] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Draw every ``interval`` iterations."""
        if not isinstance(runner.optim_wrapper, AFANOptimMixin) or not self.every_n_train_iters(
            runner, self.interval
        ):
            return
        model = unwrapped(runner.model)
        batch = first_sample(data_batch)
        captured = capture(
            model,
            batch,
            self.num_strengths,
            self.magnify,
            self.sites,
            runner.optim_wrapper.epsilon_scale,
            key=str(runner.iter),
            steering=runner.optim_wrapper.steering,
        )
        if not is_main_process():
            return
        image = to_rgb(batch['inputs'][0])
        for features in captured:
            picture = draw_site(
                features,
                image,
                choose_view(features, **self.view),
                self.magnify,
                'ground truth',
                self.alpha,
            )
            # A slash would name a folder that LocalVisBackend does not make.
            runner.visualizer.add_image(f'afan_{features.name}', picture, runner.iter + 1)
