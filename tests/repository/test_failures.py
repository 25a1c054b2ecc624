"""The end of `make test` names every test that failed, with the command that runs it alone."""

import subprocess
import sys
from pathlib import Path

from tests.support.failures import main

TESTS = """
import pytest
def test_good(): pass
@pytest.mark.parametrize("x", ["a b", "1.5"])
def test_bad(x): assert x == "1.5"
class TestKind:
    def test_too(self): assert False
@pytest.fixture
def broken(): raise OSError
def test_set_up(broken): pass
"""


def report(folder: Path, *, text: str) -> Path:
    (folder / "tests").mkdir()
    (folder / "tests" / "test_some.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "--junitxml=fast.xml"]
    subprocess.run([*command, "tests"], cwd=folder, capture_output=True, check=False)
    return folder / "fast.xml"


def test_what_failed_is_named_with_its_command(tmp_path, capsys, monkeypatch):
    found = report(tmp_path, text=TESTS)
    monkeypatch.chdir(tmp_path)
    assert main(["--pytest", "py", str(found)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "failed (fast): py 'tests/test_some.py::test_bad[a b]'",
        "failed (fast): py tests/test_some.py::TestKind::test_too",
        "failed (fast): py tests/test_some.py::test_set_up",
    ]


def test_a_file_that_cannot_be_imported_is_named(tmp_path, capsys, monkeypatch):
    found = report(tmp_path, text="import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    assert main([str(found)]) == 1
    assert capsys.readouterr().out == "failed (fast): pytest tests/test_some.py\n"


def test_tests_that_did_not_end_are_a_failure_and_none_is_none(tmp_path, capsys):
    assert main([str(tmp_path / "slow.xml")]) == 1
    assert "the slow tests" in capsys.readouterr().out
    assert main([str(report(tmp_path, text="def test_good(): pass"))]) == 0
    assert capsys.readouterr().out == "all tests passed\n"
