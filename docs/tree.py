"""Writes the lists of files in docs/architecture.md: python docs/tree.py

A list stands after a line ``<!-- tree FOLDER -->``: the files below that folder, each with the
first sentence of its docstring. A test compares, so that the page says what the files say.
"""

import ast
import re
from pathlib import Path
from typing import Iterator, Tuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'architecture.md'
LIST = re.compile(r'(?<=<!-- tree )(\S+)( -->\n)((?:\n *- .*)*)')


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
    # 'Eq. 5', 'Sec. 3' and 'et al.' end no sentence
    first = re.split(
        r'(?<=[.?!])(?<!Eq\.)(?<!Eqs\.)(?<!Sec\.)(?<!\sal\.)\s|\n\n',
        said.replace('``', ''),
        maxsplit=1,
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


def listing(folder: str) -> str:
    """The list of a folder, relative to the project's root."""
    lines = []
    for name, said in entries(ROOT / folder):
        *above, last = re.findall(r'[^/]+/?', name)
        lines.append(f'{"  " * len(above)}- `{last}`: {said}')
    return '\n'.join(lines)


def filled(page: str) -> str:
    """A page with every list in it as the files are now."""
    return LIST.sub(lambda found: f'{found[1]}{found[2]}\n{listing(found[1])}', page)


if __name__ == '__main__':
    PAGE.write_text(filled(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
