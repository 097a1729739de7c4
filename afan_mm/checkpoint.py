"""Let torch load the checkpoints that mmengine writes, without switching off its protection against
malicious ones.

Since torch 2.6 ``torch.load`` builds only objects from a list. A checkpoint of mmengine holds,
besides tensors:

- the logged values: ``HistoryBuffer`` objects around numpy arrays, and single numpy numbers such as
  a best score;
- in each ``HistoryBuffer``, the functions that compute its statistics, and in the state of a
  one-cycle schedule, its annealing function. Pickle's protocol 2, which torch writes, has no name
  for a function inside a class: it writes a call, ``getattr(HistoryBuffer, 'mean')``;
- the data set's ``metainfo``, whose dicts inside it stay ``ConfigDict`` objects.

With ``builtins.getattr`` on the list a checkpoint could reach, and then call, anything. So a
function of ours answers to that name, and hands out these few attributes and no other.
"""

from pickle import UnpicklingError
from typing import Any, Callable, List, NoReturn

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

try:
    from numpy._core import multiarray
except ImportError:  # numpy < 2
    from numpy.core import multiarray

NUMBERS = '?bhilqBHILQefd'  # numpy's codes of plain numbers: no objects, strings, or records


def allow_mmengine_checkpoints() -> None:
    """Add what mmengine's checkpoints hold to what torch loads. Further calls change nothing.

    torch below 2.4 has no such list, and below 2.6 asks for it only on request; that of 2.4 lacks a
    function of numpy's numbers then, so that checkpoints load with its default alone.
    """
    if hasattr(torch.serialization, 'add_safe_globals'):
        torch.serialization.add_safe_globals(SAFE_GLOBALS)


def resolve_attribute(owner: Any, name: str) -> Callable:
    """Stand in for ``getattr`` while a checkpoint is read: functions that mmengine itself pickles,
    nothing else.
    """
    for (allowed_owner, allowed_name), function in ATTRIBUTES.items():
        # Identity and an exact type: what the file itself made does not get to answer for its own
        # equality.
        if owner is allowed_owner and type(name) is str and name == allowed_name:
            return function
    allowed = ', '.join(sorted(f'{owner.__name__}.{name}' for owner, name in ATTRIBUTES))
    raise UnpicklingError(
        f'a checkpoint may look up only {allowed}, but this one asks for {name!r} of {owner!r}'
    )


def _stand_in(function: Callable, path: str) -> Callable:
    """A function that torch's list files under ``path``, by its module and name.

    The list also takes pairs of function and path, but not in every release that has it, and where
    it does not, a pair breaks each later ``torch.load``. This works in all of them.
    """

    def call(*args) -> Any:
        return function(*args)

    call.__module__, call.__name__ = path.rsplit('.', 1)
    call.__qualname__ = call.__name__
    return call


def _refuse_call(*args) -> NoReturn:
    raise UnpicklingError(
        'a checkpoint may look up functions of OneCycleParamScheduler, but must not make one'
    )


def _list_safe_globals() -> List[Callable]:
    number_types = {type(np.dtype(code)) for code in NUMBERS}
    functions = [_stand_in(resolve_attribute, 'builtins.getattr'), ONE_CYCLE]
    # as numpy 1 and numpy 2 write it
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        functions.append(_stand_in(multiarray._reconstruct, f'{module}._reconstruct'))
        functions.append(_stand_in(multiarray.scalar, f'{module}.scalar'))
    return [HistoryBuffer, ConfigDict, np.ndarray, np.dtype, *number_types, *functions]


# A checkpoint needs this class only as the owner of its functions, never an instance, so it is not
# given the class.
ONE_CYCLE = _stand_in(
    _refuse_call, f'{OneCycleParamScheduler.__module__}.{OneCycleParamScheduler.__name__}'
)

ANNEALING = ('_annealing_cos', '_annealing_linear')
for _name in ANNEALING:  # for a loader that lists getattr itself, as the fork onedl-mmengine does
    setattr(ONE_CYCLE, _name, getattr(OneCycleParamScheduler, _name))

# All that a checkpoint may look up by name.
ATTRIBUTES = {
    (HistoryBuffer, name): getattr(HistoryBuffer, name)
    for name in ('min', 'max', 'mean', 'current')
}
ATTRIBUTES.update({(ONE_CYCLE, name): getattr(ONE_CYCLE, name) for name in ANNEALING})

SAFE_GLOBALS = _list_safe_globals()
