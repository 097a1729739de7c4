"""The notebook runs from top to bottom, and is kept without what it prints."""

import nbformat
import pytest
from nbclient import NotebookClient

from support.paths import ROOT

NOTEBOOK = ROOT / 'docs' / 'tutorial.ipynb'


@pytest.fixture
def notebook():
    return nbformat.read(str(NOTEBOOK), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def test_it_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(notebook))


def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    place = dict(metadata=dict(path=str(tmp_path)))
    # what a cell prints comes late on a busy machine, and would be left out
    waits = dict(timeout=240, iopub_timeout=60)
    NotebookClient(notebook, kernel_name='python3', resources=place, **waits).execute()

    said = [
        ''.join(output.get('text', '') for output in cell.outputs) for cell in code_cells(notebook)
    ]
    _, converted, trained, health, features, shown, robust = said
    assert "type='AFANDecodeHead'" in converted and 'Iter(train) [20/20]' in trained
    assert 'decode_head: ' in health and 'robust' in robust
    pictures = [o for o in code_cells(notebook)[5].outputs if o.output_type == 'display_data']
    assert len(pictures) >= 2 and all('image/png' in picture.data for picture in pictures)
