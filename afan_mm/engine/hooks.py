"""The hook that checks the set-up, warms the strength up and reports what the perturbations do."""
import inspect
from collections import Counter
from io import StringIO
from types import CodeType
from typing import Dict, Iterator, Optional, Set

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from rich.console import Console
from rich.table import Table
from torch import nn

from ..augment import AFANSettings
from ..models.neck import AFANNeckWrapper
from .optim_wrapper import AFANStep


@HOOKS.register_module()
class AFANHook(Hook):
    """Check, warm up and report A-FAN.

    Before training it prints the sites, and stops the run where the model has sites but the optim wrapper would ignore them, or the
    reverse. While training it sends the figures of :class:`~afan_mm.health.Health` to the message hub as
    ``train/afan/<site>/<figure>``, from where every visualiser backend gets them.

    Args:
        warmup_iters: Iterations over which every epsilon rises linearly to its value. Defaults to 0.
        interval: Iterations between two reports. Defaults to 50.
    """

    def __init__(self, warmup_iters: int = 0, interval: int = 50):
        for name, value, least in (('warmup_iters', warmup_iters, 0), ('interval', interval, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'{name} of AFANHook must be an integer >= {least}, but got {value!r}')
        self.warmup_iters = warmup_iters
        self.interval = interval

    def before_train(self, runner) -> None:
        """Check the model and the optim wrapper, and print the table of sites."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        sites = {path: m.afan for path, m in model.named_modules() if isinstance(getattr(m, 'afan', None), AFANSettings)}
        check_sites(sites, runner.optim_wrapper)
        for host in model.modules():
            for neck in host.children():
                if isinstance(neck, AFANNeckWrapper):
                    check_host(host, neck)
        runner.logger.info('A-FAN sites:\n' + site_table(sites))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Warm up: a function of the iteration alone, so that a resumed run continues it."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, AFANStep):  # a stock baseline that inherits the hook
            return
        wrapper.epsilon_scale = min(1.0, (runner.iter + 1) / self.warmup_iters) if self.warmup_iters else 1.0
        wrapper.health.due = self.every_n_train_iters(runner, self.interval)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None) -> None:
        """Report the figures of this iteration."""
        if not isinstance(runner.optim_wrapper, AFANStep) or not self.every_n_train_iters(runner, self.interval):
            return
        for key, value in runner.optim_wrapper.health.report().items():
            runner.message_hub.update_scalar(f'train/afan/{key}', value)
            if key.endswith('nonfinite_share') and value > 0:
                runner.logger.warning(f'A-FAN: {value:.1%} of the last directions at {key.split("/")[0]!r} were not finite, and '
                                      'their adversarial passes counted nothing')


def check_sites(sites: Dict[str, AFANSettings], optim_wrapper) -> None:
    """Raise where sites and optim wrapper do not fit together, or sites share a name.

    Args:
        sites: Settings by the module's path in the model.
        optim_wrapper: That of the run.
    """
    kind = type(optim_wrapper).__name__
    if sites and not isinstance(optim_wrapper, AFANStep):
        write = 'AFANAmpOptimWrapper' if 'Amp' in kind else 'AFANOptimWrapper'
        raise RuntimeError(
            f"The model has A-FAN sites ({', '.join(sites)}), but the optim wrapper is {kind}, which would train it without A-FAN. "
            f"Write optim_wrapper=dict(type='{write}', ...); with --amp use the tools/train.py of afan_mm")
    if not sites and isinstance(optim_wrapper, AFANStep):
        raise RuntimeError(f'The optim wrapper is {kind}, but the model has no A-FAN site. Use AFANNeckWrapper, AFANDecodeHead or '
                           "AFANRoIHead in the model, or give your own site module an attribute 'afan' with its AFANSettings")
    for name, times in Counter(settings.name for settings in sites.values()).items():
        if times > 1:
            paths = [path for path, settings in sites.items() if settings.name == name]
            raise ValueError(
                f"A-FAN sites must have different names, but {paths} are all named {name!r}; write afan=dict(name=...)")


def check_host(host: nn.Module, neck: AFANNeckWrapper) -> None:
    """Raise where the host cannot serve the neck's tail, or the neck's levels are known not to exist."""
    for method in ('loss', 'extract_feat'):
        if not callable(getattr(host, method, None)):
            raise ValueError(f'AFANNeckWrapper needs a host with a method {method}, but {type(host).__name__} has none')
    if not _mentions(type(host), 'loss', 'extract_feat', set()):
        raise ValueError(
            f'AFANNeckWrapper needs a host whose loss calls extract_feat, but that of {type(host).__name__} never does. '
            'Compute its features in extract_feat, or tap them in its own code (afan_mm.tap)')
    neck.check_levels(getattr(host, 'backbone', None))


def _mentions(cls: type, method: str, name: str, seen: Set[str]) -> bool:
    """Whether a method of a class, or one it calls by name, mentions a name."""
    seen.add(method)
    for owner in cls.__mro__:
        code = getattr(inspect.unwrap(owner.__dict__.get(method) or len), '__code__', None)
        if code is None:
            continue
        names = set(_names(code))
        calls = [called for called in names if called not in seen and hasattr(cls, called)]
        if name in names or any(_mentions(cls, called, name, seen) for called in calls):
            return True
        if not names & {'super', method}:  # it does not go on to what it overrides
            break
    return False


def _names(code: CodeType) -> Iterator[str]:
    """Names that a function and the functions inside it refer to."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def site_table(sites: Dict[str, AFANSettings]) -> str:
    """The sites, their settings, and the runs of the tail they add to every step."""
    table = Table('site', 'module', 'epsilon', 'strengths', 'PGD', 'moments', 'perturbation', 'trains', 'extra cost of a step')
    for path, s in sites.items():
        unit = ' std' if s.epsilon_unit == 'std' else ''
        cost = f'{s.num_strengths} x its tail'
        if s.num_attack_passes:
            cost += f' + {s.num_attack_passes} x without weight gradients'
        table.add_row(s.name, path, f'{s.epsilon:.3g}{unit}', f'{s.num_strengths} {s.strengths}', str(s.num_steps), str(s.moments),
                      s.perturbation, 'tail' if s.detach else 'all layers', cost)
    text = StringIO()
    Console(file=text, width=160).print(table)
    running = [s for s in sites.values() if s.num_strengths]
    if len(running) > 1 and not all(s.detach for s in running):
        text.write('and one more backward from the clean loss to the sites, for directions free of adversarial gradients\n')
    return text.getvalue()
