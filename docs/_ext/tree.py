"""The directive ``tree``: the files below a folder, each with the first sentence of its docstring.

Generated at every build, so that the page cannot say anything but what the files say.
"""

import ast
import re
from pathlib import Path
from typing import Iterator, List, Tuple

from docutils import nodes
from docutils.parsers.rst import Directive

ROOT = Path(__file__).resolve().parents[2]


def purpose(path: Path) -> str:
    """The first sentence of a Python file's docstring, or a shell script's first comment.

    Raises:
        ValueError: If the file says nothing of itself.
    """
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.py':
        said = ast.get_docstring(ast.parse(text)) or ''
    else:
        said = ' '.join(re.findall(r'^# (.*)$', text, re.M)[:1])
    # 'Eq. 5' and 'Sec. 3' end no sentence
    first = re.split(
        r'(?<=[.?!])(?<!Eq\.)(?<!Eqs\.)(?<!Sec\.)\s|\n\n', said.replace('``', ''), maxsplit=1
    )[0]
    if not first.strip():
        raise ValueError(f'{path} needs a docstring that says what it is for')
    return ' '.join(first.split()).rstrip('.')


def entries(folder: Path) -> Iterator[Tuple[str, str]]:
    """Paths below a folder, folders before their files, each with its purpose."""
    for path in sorted(folder.rglob('*')):
        inside = path.relative_to(folder)
        if any(part.startswith(('.', '__pycache__')) for part in inside.parts):
            continue
        if path.suffix in ('.py', '.sh') and path.name != '__init__.py':
            yield str(inside), purpose(path)
        elif (path / '__init__.py').is_file():
            yield f'{inside}/', purpose(path / '__init__.py')


class Tree(Directive):
    """``{tree} FOLDER``, relative to the project's root."""

    required_arguments = 1

    def run(self) -> List[nodes.Node]:
        listing = nodes.definition_list()
        for name, said in entries(ROOT / self.arguments[0]):
            term = nodes.term('', '', nodes.literal('', name))
            listing += nodes.definition_list_item(
                '', term, nodes.definition('', nodes.paragraph('', said))
            )
        return [listing]


def setup(app) -> dict:
    """Register the directive."""
    app.add_directive('tree', Tree)
    return dict(parallel_read_safe=True)
