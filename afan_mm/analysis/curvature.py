"""Curvature of the training loss: Table 1 of the paper, for any model."""

import os
import os.path as osp
from contextlib import ExitStack
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from scipy.sparse.linalg import ArpackError
from torch import Tensor

from ..robustness.resume import run_key
from ..utils.checks import check_integer, check_number
from ..utils.errors import describe
from ..utils.files import replacing, write_json
from .hessian import (
    HessianOperator,
    Tail,
    find_tail,
    merge_tails,
    only_trained,
    twice_differentiable_attention,
)
from .losses import FixedLosses
from .products import CountedOperator, JournalledOperator, read_state
from .progress import Progress
from .spectrum import (
    Eigenpairs,
    combine_traces,
    lanczos_quadrature,
    largest_eigenvalues,
    probe_trace,
    rademacher,
)


class CurvatureSettings(NamedTuple):
    """What :func:`measure_curvature` computes.

    Attributes:
        num_eigenvalues: The largest in magnitude; 0 for none. Defaults to 5.
        num_probes: Random vectors for the trace; 0 for none. Defaults to 30.
        num_density_probes: Random vectors for the spectral density; 0, the default, for none.
        num_density_steps: Lanczos steps for each of these. Defaults to 40.
        tol: Relative accuracy at which the eigenvalues stop; 0 for that of the machine. Defaults to
            1e-3.
        seed: Of start vector and probes. Defaults to 0.
    """

    num_eigenvalues: int = 5
    num_probes: int = 30
    num_density_probes: int = 0
    num_density_steps: int = 40
    tol: float = 1e-3
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError with the argument's name, what is allowed and what came."""
        for key in ('num_eigenvalues', 'num_probes', 'num_density_probes'):
            check_integer(key, getattr(self, key), least=0)
        check_integer('num_density_steps', self.num_density_steps, least=1)
        check_number('tol', self.tol)


def measure_curvature(
    losses: FixedLosses,
    settings: Optional[CurvatureSettings] = None,
    parameters: Optional[Dict[str, Tensor]] = None,
    work_dir: Optional[str] = None,
) -> Dict[str, Any]:
    """Largest eigenvalues, trace and density of the Hessian of the mean loss over fixed batches.

    The model is in evaluation mode, and every product sees the same samples and the same random
    draws. Parameters that the loss reads through an operator without double backward are left out:
    the Hessian is then that of the tail, the block of the other parameters.

    Args:
        losses: The model and its batches.
        settings: What to compute. Defaults to None, those of :class:`CurvatureSettings`.
        parameters: By name. Defaults to None, all that require a gradient.
        work_dir: Folder for what is done so far; a later call with the same weights, loss, data and
            settings goes on there. Beside single figures it holds every product, P numbers each,
            until the eigenvalues are done, and the eigenvectors until the trace is; a later call
            for more probes finds the vectors again. Defaults to None, nothing is kept.

    Returns:
        Plain numbers, ready for JSON:

        - ``loss``: the mean loss; ``batches`` and ``images`` it is over.
        - ``parameters``: ``counted`` weights, ``left_out`` weights and, of the tensors, the names
          ``before`` an operator, the names ``unused``, and the ``operators``.
        - ``eigenvalues``: each a ``value`` and its ``error``, the residual norm.
        - ``trace``: one dict for each estimator, the better first; see
          :class:`~afan_mm.analysis.spectrum.Trace`.
        - ``density``: ``nodes`` and ``weights`` for each probe.
        - ``products``: how many Hessian-vector products each of these took.

    Raises:
        ValueError: If a setting is wrong, the loss is not finite, or reads no parameter that has a
            second derivative, or the eigenvalues do not converge.
    """
    settings = settings or CurvatureSettings()
    settings.check()
    with losses.evaluating(), twice_differentiable_attention(), ExitStack() as stack:
        if parameters is None:
            parameters = {n: p for n, p in losses.model.named_parameters() if p.requires_grad}
        tail = losses_tail(losses, parameters)
        stack.enter_context(only_trained(dict(losses.model.named_parameters()), tail.names))
        chosen = [parameters[name] for name in tail.names]
        terms = [lambda index=index: losses(index) for index in range(len(losses))]
        operator = HessianOperator(terms, chosen, losses.weights)
        result = _about(losses, parameters, tail)
        path = None
        if work_dir is not None:
            key = run_key(
                losses.model,
                data=losses.digest(),
                parameters=tail.names,
                eigenvalues=[settings.num_eigenvalues, settings.tol, settings.seed],
            )
            path = osp.join(work_dir, key[:16])
        return {**result, **_Stages(operator, settings, path).run()}


def losses_tail(losses: FixedLosses, parameters: Dict[str, Tensor]) -> Tail:
    """See :func:`~afan_mm.analysis.hessian.find_tail`, over all batches; in evaluation mode.

    Raises:
        ValueError: As :func:`measure_curvature`.
    """
    tails = []
    with only_trained(dict(losses.model.named_parameters()), list(parameters)):
        for index in range(len(losses)):
            loss = losses(index)
            if not bool(loss.isfinite()):
                raise ValueError(f'the loss of batch {index} must be finite, but it is {loss:g}')
            tails.append(find_tail(loss, parameters))
    tail = merge_tails(tails)
    if not tail.names:
        through = ', '.join(tail.operators)
        raise ValueError(
            'the loss must read a parameter that has a second derivative, but of the '
            f'{len(parameters)} chosen it reads {len(tail.before)} through {through or "nothing"} '
            f'and {len(tail.unused)} not at all'
        )
    return tail


def _about(losses: FixedLosses, parameters: Dict[str, Tensor], tail: Tail) -> Dict[str, Any]:
    counted = sum(parameters[name].numel() for name in tail.names)
    total = sum(parameter.numel() for parameter in parameters.values())
    return dict(
        loss=losses.mean(),
        batches=len(losses),
        images=losses.num_images,
        parameters=dict(
            counted=counted,
            left_out=total - counted,
            before=tail.before,
            unused=tail.unused,
            operators=tail.operators,
        ),
    )


class _Stages:
    """The three computations, each of which goes on where an earlier run stopped."""

    def __init__(
        self, operator: HessianOperator, settings: CurvatureSettings, folder: Optional[str]
    ):
        self.operator = operator
        self.settings = settings
        self.folder = folder
        self.state: Dict[str, Any] = dict(products={})
        if folder is not None:
            self.state = read_state(osp.join(folder, 'state.json')) or self.state

    def run(self) -> Dict[str, Any]:
        settings, state = self.settings, self.state
        basis = None
        if settings.num_eigenvalues:
            todo = len(state.get('traces', ())) < settings.num_probes
            if todo or 'eigenvalues' not in state:
                basis = self._eigenpairs()
        result: Dict[str, Any] = {}
        if settings.num_eigenvalues:
            result['eigenvalues'] = [dict(value=v, error=e) for v, e in state['eigenvalues']]
        if settings.num_probes:
            terms = self._traces(basis)
            found = combine_traces(terms, state.get('trace of the eigenvectors'))
            result['trace'] = [trace._asdict() for trace in found]
        self._remove_vectors()
        if settings.num_density_probes:
            result['density'] = self._density()
        return {**result, 'products': state['products']}

    def _save(self, stage: str, products: int) -> None:
        self.state['products'][stage] = products
        if self.folder is not None:
            write_json(osp.join(self.folder, 'state.json'), self.state)

    def _eigenpairs(self) -> Eigenpairs:
        """Found, or in the folder of a run that stopped before it had all traces."""
        if self.folder is None:
            return self._find_eigenpairs(self.operator)
        path = osp.join(self.folder, 'eigenpairs.npz')
        if 'eigenvalues' in self.state and osp.isfile(path):
            with np.load(path) as stored:
                return Eigenpairs(**stored)
        operator = JournalledOperator(self.operator, osp.join(self.folder, 'products.bin'))
        try:
            found = self._find_eigenpairs(operator)
        except ValueError:
            operator.remove()
            raise
        with replacing(path) as temporary:
            np.savez(temporary, **found._asdict())
        operator.remove()
        return found

    def _find_eigenpairs(self, operator: Any) -> Eigenpairs:
        with Progress('Lanczos', None) as progress:
            counted = CountedOperator(operator, progress.advance)
            s = self.settings
            try:
                found = largest_eigenvalues(counted, s.num_eigenvalues, tol=s.tol, seed=s.seed)
            except ArpackError as error:
                raise ValueError(
                    'tol must be larger, or num_eigenvalues another, for the eigenvalues to '
                    f'converge, but got {s.tol:g} and {s.num_eigenvalues}: {describe(error)}'
                ) from error
        self.state['eigenvalues'] = list(zip(found.values.tolist(), found.errors.tolist()))
        self.state['trace of the eigenvectors'] = found.trace
        self._save('eigenvalues', counted.products)
        return found

    def _remove_vectors(self) -> None:
        if self.folder is not None:
            for name in ('products.bin', 'eigenpairs.npz'):
                path = osp.join(self.folder, name)
                if osp.isfile(path):  # the products only of a run that was killed in between
                    os.remove(path)

    def _traces(self, basis: Optional[Eigenpairs]) -> List[Tuple[float, float]]:
        terms = self.state.setdefault('traces', [])
        size, wanted = self.operator.shape[0], self.settings.num_probes
        with Progress('trace', wanted, len(terms)) as progress:
            for index in range(len(terms), wanted):
                probe = rademacher(size, self.settings.seed, index)
                terms.append(probe_trace(self.operator, probe, basis))
                self._save('trace', index + 1)
                progress.advance()
        return terms[:wanted]

    def _density(self) -> List[Dict[str, List[float]]]:
        steps, wanted = self.settings.num_density_steps, self.settings.num_density_probes
        found = self.state.setdefault(f'density {steps}', [])
        size = self.operator.shape[0]
        with Progress('density', wanted * steps, len(found) * steps) as progress:
            counted = CountedOperator(self.operator, progress.advance)
            for index in range(len(found), wanted):
                # other probes than those of the trace
                probe = rademacher(size, self.settings.seed + 1, index)
                nodes, weights = lanczos_quadrature(counted, probe, steps)
                found.append(dict(nodes=nodes.tolist(), weights=weights.tolist()))
                self._save('density', sum(len(each['nodes']) for each in found))
        return found[:wanted]
