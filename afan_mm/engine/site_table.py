"""The sites of a model as a run has them: whether they fit its optim wrapper, and a table."""

from collections import Counter
from io import StringIO
from typing import Sequence, Tuple

from mmengine.optim import OptimWrapperDict
from rich.console import Console
from rich.table import Table

from ..joint import check_group, needs_directions_first, units
from ..settings import AFANSettings
from .optim_wrapper import AFANOptimMixin

Sites = Sequence[Tuple[str, AFANSettings]]


def check_sites(sites: Sites, optim_wrapper: type) -> None:
    """Raise where sites and optim wrapper do not fit together, or sites share a name.

    Args:
        sites: The path of the module that declares a site, and its settings.
        optim_wrapper: The class of that of the run.
    """
    kind = optim_wrapper.__name__
    if sites and issubclass(optim_wrapper, OptimWrapperDict):
        raise RuntimeError(
            'A-FAN trains with one optimizer, but the optim wrapper is a dict of several. Write '
            "one optim_wrapper=dict(type='AFANOptimWrapper', ...), with paramwise_cfg where parts "
            'of the model need a learning rate of their own'
        )
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
    if needs_directions_first(units([s for _, s in sites])):
        text.write(
            'and one more backward from the clean loss to the sites, for directions free of '
            'adversarial gradients\n'
        )
    return text.getvalue()
