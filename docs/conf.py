"""Sphinx: make docs."""

import re
import sys
from pathlib import Path
from pydoc import locate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this tree's package, whatever is installed

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
]
exclude_patterns = ['_build']
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 3

smartquotes = False  # 'input' is a value

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

# napoleon reads what stands before a colon as a type.
nitpick_ignore_regex = [('py:.*', r'.*[ \[].*'), ('py:class', r'[a-z_]+')]


def without_link(app, env, node, contnode):
    """Leave a name without a link where it exists, but has no page here: one of another package
    (without a network there is no intersphinx), or of a module that is not documented.

    A name that does not exist stays a warning.
    """
    if node.get('refdomain') != 'py':
        return None
    target = node['reftarget'].lstrip('.')
    module = node.get('py:module') or 'afan_mm'
    scopes = ['', f'{module}.', f'{module}.{node.get("py:class")}.', 'typing.']
    scopes += [f'{name}.' for name in sys.modules if name.split('.')[0] == 'afan_mm']
    found = any(locate(scope + target) is not None for scope in scopes)
    return contnode if found else None


def escape_shapes(app, what, name, obj, options, lines) -> None:
    """Shapes are written as in torch, (N, C, *S), where reStructuredText reads emphasis."""
    lines[:] = [re.sub(r'(?<![\\*`])\*S\b', r'\\*S', line) for line in lines]


def include_from_elsewhere(app, path, docname, content) -> None:
    """Links of a page that is included from its place in the repository point from here."""
    folder = '../' * (docname.count('/') + 1) + f'{Path(path).parent.as_posix()}/'
    if 'configs' in Path(path).parts:
        # the other folders' pages lie beside this one, all else is where it was
        content[0] = re.sub(r'\]\(\.\./(\w+)/README\.md', r'](\1.md', content[0])
        folder = '../../configs/' + folder.split('configs/', 1)[1]
        kept = r'https?:|#|\w+\.md'
        content[0] = re.sub(rf'\]\((?!{kept})([^)]+)\)', rf']({folder}\1)', content[0])


def setup(app) -> None:
    """Register what is above."""
    app.connect('missing-reference', without_link)
    app.connect('include-read', include_from_elsewhere)
    app.connect('autodoc-process-docstring', escape_shapes)
