"""What older libraries or a machine cannot do: a test of it is skipped there, with the reason."""

import mmengine
import pytest
import torch
from mmengine.utils import digit_version


def older(library, version):
    return digit_version(library.__version__) < digit_version(version)


counts_operations = pytest.mark.skipif(
    older(torch, '2.1'), reason='late sites are found by the counter of torch 2.1 or newer'
)
runs_without_values = pytest.mark.skipif(
    older(torch, '2.5'), reason='torch 2.1 lacks losses without values, 2.4 a module torch.meta'
)
lists_safe_classes = pytest.mark.skipif(
    older(torch, '2.6'),
    reason='torch 2.6 is the first that loads safely by default; 2.4 knows not all of numpy there',
)
goes_on_with_the_data = pytest.mark.skipif(
    older(mmengine, '0.10.3'), reason='before mmengine 0.10.3 a resumed run starts its data again'
)
knows_checkpoints = pytest.mark.skipif(
    not hasattr(torch._C._autograd, '_top_saved_tensors_default_hooks'),
    reason='this torch does not tell whether a layer runs inside a checkpoint',
)
checkpoints_run_again = pytest.mark.skipif(
    older(torch, '2.1'),
    reason='a checkpoint of torch 2.0 runs once in a search for directions, and says less',
)
compiles = pytest.mark.skipif(
    not hasattr(torch.nn.Module, 'compile'), reason='before torch 2.2 compilers stop at a step'
)
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

# mmengine below 0.8.5 writes the class and its file before the message of an error at its build
MESSAGE_STARTS = '^(class .*: )?' if older(mmengine, '0.8.5') else '^'
