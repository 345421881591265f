"""The command `clray`, run in the process of the tests."""

from __future__ import annotations

import sys

import pytest

from clray import cli


def run(capsys, *arguments):
    """Exit code, standard output and standard error of the command."""
    before, sys.argv = sys.argv, ["clray", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err
