"""The hook that checks the set-up, warms the strength up and reports what the perturbations do,
and the one that draws them.
"""

import math
from collections import Counter
from io import StringIO
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import nn

from ..auxiliary_norms import check_auxiliary_norms
from ..joint import adversarial_weight, check_group, units
from ..settings import AFANSettings
from ..site import declared_sites, trained_modules
from ..utils.checks import check_choice, check_integer, check_number
from ..utils.models import unwrapped
from ..visualization import CHANNELS, capture, choose_view, draw_site, first_sample, to_rgb
from .optim_wrapper import AFANOptimMixin

Sites = Sequence[Tuple[str, AFANSettings]]
MANY_STDS = 2  # of the feature: a perturbation above has hidden it


@HOOKS.register_module()
class AFANHook(Hook):
    """Check, warm up and report A-FAN.

    Before training it prints the sites, and stops the run where the model has sites but the optim
    wrapper would ignore them, or the reverse. While training it sends the figures of
    :class:`~afan_mm.health.Health` to the message hub as ``train/afan/<site>/<figure>``, from where
    every visualiser backend gets them.

    Args:
        warmup_iters: Iterations over which every epsilon rises linearly to its value. Defaults to
            0.
        interval: Iterations between two reports. Defaults to 50.
    """

    def __init__(self, warmup_iters: int = 0, interval: int = 50):
        self.warmup_iters = check_integer('warmup_iters of AFANHook', warmup_iters, 0)
        self.interval = check_integer('interval of AFANHook', interval, 1)
        self._longest = 1
        self._strong: Dict[str, str] = {}  # sites that may turn out too strong, and the unit there
        self._void_updates = 0

    def before_train(self, runner: Runner) -> None:
        """Check the model and the optim wrapper, and print the table of sites."""
        model = unwrapped(runner.model)
        sites = declared_sites(model)
        check_sites(sites, type(runner.optim_wrapper))
        for _, module in trained_modules(model):
            if hasattr(module, 'afan_check'):
                module.afan_check(model)
        check_auxiliary_norms(model)
        self._strong = {s.name: s.epsilon_unit for _, s in sites if s.epsilon_unit != 'norm'}
        self._longest = max((settings.interval for _, settings in sites), default=1)
        runner.logger.info('A-FAN sites:\n' + site_table(sites))
        if sites:
            self._tell_weights(runner, sites, model)

    def _tell_weights(self, runner: Runner, sites: Sites, model: nn.Module) -> None:
        wrapper = runner.optim_wrapper
        wrapper.resolve_clean_weight(model)
        adversarial = adversarial_weight([settings for _, settings in sites])
        total = wrapper.clean_weight + adversarial
        divergences = sum(
            s.adv_weight * s.num_strengths
            for s in units([s for _, s in sites])
            if s.objective == 'consistency'
        )
        runner.logger.info(
            f'A-FAN weights: clean {wrapper.clean_weight:.4g} + adversarial {adversarial:.4g} = '
            f'{total:.4g}' + (f', divergences {divergences:.4g}' if divergences else '')
        )
        if total > 1 + 1e-6 and isinstance(wrapper.optimizer, torch.optim.SGD):
            runner.logger.warning(
                f'A-FAN: the weights of the losses sum to {total:.4g}, which multiplies the step '
                'of plain SGD by about as much. Keep it in mind when you compare with stock, or '
                "write optim_wrapper=dict(clean_weight='complement', ...) with adversarial weights "
                'below 1'
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[Any] = None
    ) -> None:
        """Warm up: a function of the iteration alone, so that a resumed run continues it."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, AFANOptimMixin):  # a stock baseline that inherits the hook
            return
        wrapper.epsilon_scale = (
            min(1.0, (runner.iter + 1) / self.warmup_iters) if self.warmup_iters else 1.0
        )
        # A site that is not active in every iteration is measured the last time before the report.
        wrapper.health.due = self.interval - 1 - runner.iter % self.interval < self._longest

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[Any] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Report the figures of this iteration."""
        if not isinstance(runner.optim_wrapper, AFANOptimMixin) or not self.every_n_train_iters(
            runner, self.interval
        ):
            return
        self._tell_void_updates(runner)
        self._tell_strong(runner)
        for key, value in runner.optim_wrapper.health.report().items():
            runner.message_hub.update_scalar(f'train/afan/{key}', value)
            if key.endswith('nonfinite_share') and value > 0:
                runner.logger.warning(
                    f'A-FAN: {value:.1%} of the last directions at {key.split("/")[0]!r} were not '
                    'finite, or there was no loss to take them from, and their adversarial passes '
                    'counted nothing'
                )

    def _tell_strong(self, runner: Runner) -> None:
        for name, size in runner.optim_wrapper.health.relative_sizes().items():
            if name in self._strong and MANY_STDS < size < math.inf:
                unit = self._strong.pop(name)  # once is enough
                runner.logger.warning(
                    f'A-FAN: the perturbation at {name!r} measures {size:.3g} standard deviations '
                    f'of the feature there. Was epsilon ({unit}) meant to be that large, or does a '
                    "'/ 255' lack?"
                )

    def _tell_void_updates(self, runner: Runner) -> None:
        void = int(runner.optim_wrapper.num_void_updates)
        if void > self._void_updates:
            runner.logger.warning(
                f'A-FAN: {void - self._void_updates} updates since the last report had a gradient '
                'that was not '
                f'finite, and were made with a zero gradient ({void} so far)'
            )
        self._void_updates = void


def check_sites(sites: Sites, optim_wrapper: type) -> None:
    """Raise where sites and optim wrapper do not fit together, or sites share a name.

    Args:
        sites: The path of the module that declares a site, and its settings.
        optim_wrapper: The class of that of the run.
    """
    kind = optim_wrapper.__name__
    if sites and not issubclass(optim_wrapper, AFANOptimMixin):
        write = 'AFANAmpOptimWrapper' if 'Amp' in kind else 'AFANOptimWrapper'
        raise RuntimeError(
            f'The model has A-FAN sites ({", ".join(settings.name for _, settings in sites)}), '
            f'but the optim wrapper is {kind}, '
            'which would train it without A-FAN. '
            f"Write optim_wrapper=dict(type='{write}', ...); with --amp use the tools/train.py of "
            'afan_mm'
        )
    if not sites and issubclass(optim_wrapper, AFANOptimMixin):
        raise RuntimeError(
            f'The optim wrapper is {kind}, but the model has no A-FAN site. Use AFANNeckWrapper, '
            'AFANDecodeHead or '
            "AFANRoIHead in the model, or give your own site module an attribute 'afan' with its "
            'AFANSettings'
        )
    for name, times in Counter(settings.name for _, settings in sites).items():
        if times > 1:
            paths = [path for path, settings in sites if settings.name == name]
            raise ValueError(
                f'A-FAN sites must have different names, but {paths} are all named {name!r}; '
                'write afan=dict(name=...)'
            )
    check_group([settings for _, settings in sites])


def site_table(sites: Sites) -> str:
    """The sites, their settings, and the runs of the tail they add to every step."""
    table = Table(
        'site',
        'module',
        'epsilon',
        'strengths',
        'PGD',
        'moments',
        'perturbation',
        'trains',
        'extra cost of a step',
    )
    for path, s in sites:
        strengths = f'{s.num_strengths} {s.strengths}' + (
            '' if s.estimator == 'sum' else f', {s.estimator}'
        )
        cost = f'{s.num_passes} x its tail'
        if s.num_attack_passes:
            cost += f' + {s.num_attack_passes} x without weight gradients'
        if s.joint:
            cost = f'joint: {cost.replace("its tail", "the tail of the first of them")}'
        if s.interval > 1:
            cost += f', every {s.interval} iterations'
        table.add_row(
            s.name,
            path,
            f'{s.epsilon:.3g}{s.unit_text}' + (f' ({s.norm_text})' if s.norm_text else ''),
            strengths,
            str(s.num_steps),
            str(s.moments),
            s.perturbation,
            ('tail' if s.detach else 'all layers')
            + (', consistency' if s.objective == 'consistency' else ''),
            cost,
        )
    text = StringIO()
    Console(file=text, width=160).print(table)
    running = units([s for _, s in sites])
    if len(running) > 1 and any(s.within_backward for s in running):
        text.write(
            'and one more backward from the clean loss to the sites, for directions free of '
            'adversarial gradients\n'
        )
    return text.getvalue()


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
