"""Sphinx: make docs."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# This tree's package, whatever is installed; and the extension of these pages.
sys.path[:0] = [str(ROOT), str(ROOT / 'docs' / '_ext')]

project = 'afan_mm'
author = 'afan_mm contributors'
copyright = author  # noqa: A001  Sphinx's name
said = (ROOT / 'afan_mm' / '__init__.py').read_text()
version = release = re.search(r"__version__ = '(.*)'", said).group(1)

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
    'tree',
]
exclude_patterns = ['_build']
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 3

html_theme = 'furo'
html_title = f'afan_mm {version}'
html_theme_options = dict(top_of_page_buttons=[])
copybutton_exclude = '.linenos, .gp'

autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
autodoc_class_signature = 'mixed'
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_rtype = False
napoleon_use_ivar = True  # the fields of a named tuple have an entry of their own

# No network while building, hence no intersphinx: names of other packages stay without a link.
nitpick_ignore_regex = [
    ('py:.*', r'(torch|mmengine|mmdet|mmseg|mmcv|numpy|np|nn|typing|pathlib|collections)\b.*'),
    ('py:.*', r'(features|feature_gradients)'),  # napoleon reads ``features, context:`` as a type
    ('py:.*', r'.*\.View'),
    (
        'py:.*',
        r'(Tensor|Module|Runner|Config|Hook|TestLoop|DataLoader|Evaluator|Path|device|array)',
    ),
]


def escape_shapes(app, what, name, obj, options, lines) -> None:
    """Shapes are written as in torch, (N, C, *S), where reStructuredText reads emphasis."""
    lines[:] = [re.sub(r'(?<![\\*`])\*S\b', r'\\*S', line) for line in lines]


def include_from_elsewhere(app, path, docname, content) -> None:
    """Links of a page that is included from its place in the repository point from here."""
    folder = '../' * (docname.count('/') + 1) + f'{Path(path).parent.as_posix()}/'
    if 'configs' in Path(path).parts:
        folder = '../../configs/' + folder.split('configs/', 1)[1]
        content[0] = re.sub(r'\]\((?!https?:)([^)]+\.py)\)', rf']({folder}\1)', content[0])


def setup(app) -> None:
    """Register what is above."""
    app.connect('include-read', include_from_elsewhere)
    app.connect('autodoc-process-docstring', escape_shapes)
