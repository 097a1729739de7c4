"""What one rank finds, told to all."""

from typing import Optional

from mmengine.dist import all_gather_object
from torch.nn.parallel import DistributedDataParallel


def raise_on_all(
    error: Optional[Exception], replicas: Optional[DistributedDataParallel] = None
) -> None:
    """Raise an error that only some ranks met on all of them: the others would go on, and wait for
    these in their next step. A collective: every rank calls it, with None where nothing is wrong.

    Args:
        error: What is wrong here.
        replicas: The model in its wrapper. Defaults to None, this process alone.

    Raises:
        RuntimeError: Where something is wrong on another rank only, with what that one says.
    """
    said = None if error is None else str(error)
    all_said = [] if replicas is None else all_gather_object(said, replicas.process_group)
    if error is not None:
        raise error
    for rank, other in enumerate(all_said):
        if other is not None:
            raise RuntimeError(f'On rank {rank}: {other}')
