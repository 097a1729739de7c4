"""Files are written whole or not at all, and what cannot be written is said before it is made."""

import json
import math
import re

import pytest

from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import check_output, replacing, write, write_json


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / 'new' / 'a.py'
    with replacing(path) as temporary:
        assert temporary.endswith('.tmp.py') and not path.exists()
        with open(temporary, 'w') as file:
            file.write('x')
    assert [each.name for each in path.parent.iterdir()] == ['a.py'] and path.read_text() == 'x'


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / 'a.txt'
    write(path, 'before')
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        with open(temporary, 'w') as file:
            file.write('half')
        raise ZeroDivisionError
    assert path.read_text() == 'before' and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match='cannot write .*a.txt/b.txt: '):
        write(path / 'b.txt', b'')


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / 'a.json', dict(a=[math.nan, -math.inf, 1.5], b='ü'))
    text = (tmp_path / 'a.json').read_text()
    assert json.loads(text, parse_constant=pytest.fail) == dict(a=[None, None, 1.5], b='ü')


def test_outputs(tmp_path):
    (tmp_path / 'file').write_text('')
    for good in ('a.png', 'new/a.png', 'file', 'new/folder/', './'):
        check_output('--out', f'{tmp_path}/{good}')
    check_output('--out', tmp_path / 'a.png', ['.png'])
    for bad, suffixes, message in (
        ('a.txt', ['.png'], '--out must end in .png, but got '),
        ('a.txt', ['.png', '.pdf'], '--out must end in one of .png, .pdf, but got '),
        ('file/a.png', None, '--out must be a file in a folder that can be written, but got '),
        ('', None, '--out must be a file in a folder that can be written, but got '),
        ('file/', None, '--out must be a folder that can be written, but got '),
    ):
        given = f'{tmp_path}/{bad}' if bad else str(tmp_path)
        with pytest.raises(UsageError, match=re.escape(message + given)):
            check_output('--out', given, suffixes)
