"""The settings of `make test-portable`: what each changes, what is read from pytest, and which one a day's CI runs."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.repository import portable
from tests.repository.portable import COMPILERS, ODD_PLACE, ROOT, SETTINGS, Outcome, Setting

PLAIN = Setting(name="plain", tests=(), quick=())
TESTS = """
import pytest

def test_right(): pass
def test_wrong(): assert False
@pytest.mark.parametrize("number", range(3))
def test_absent(number): pytest.skip("no PostgreSQL here")
@pytest.fixture
def broken(): raise ValueError
def test_broken(broken): pass
"""


def test_tests_of_every_setting_are_there() -> None:
    assert len({each.name for each in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        for place in (word for word in (*setting.tests, *setting.quick) if word.startswith("tests/")):
            assert (ROOT / place).exists(), f"{setting.name}: {place}"


def test_every_setting_of_ci_has_its_day() -> None:
    names = {each.name for each in SETTINGS if each.in_ci}
    assert len(names) > 10 and "python: 3.12" not in names, "a Python is 6 GB and a minute to install"
    assert {portable.of_today(SETTINGS, day=739_000 + day).name for day in range(len(names))} == names


def test_a_processor_without_the_vectors_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(portable, "_processor_flags", lambda: {"fpu", "fma", "avx2"})
    for name, fits in (("no vectors", True), ("avx2", True), ("avx512", False)):
        (setting,) = (each for each in SETTINGS if each.name == f"processor: {name}")
        if fits:
            assert portable._python_of(setting, work=tmp_path, checkout=tmp_path, uv=None) == sys.executable
        else:
            with pytest.raises(LookupError, match="this processor has no avx512"):
                portable._python_of(setting, work=tmp_path, checkout=tmp_path, uv=None)


def test_a_python_that_cannot_be_had_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    old = replace(PLAIN, python="3.1")
    with pytest.raises(LookupError, match="there is no uv"):
        portable._python_of(old, work=tmp_path, checkout=tmp_path, uv=None)
    if (uv := shutil.which("uv") or shutil.which(ROOT / ".uv" / "bin" / "uv")) is not None:
        with pytest.raises(LookupError, match=r"3\.1\b"):
            portable._python_of(old, work=tmp_path, checkout=tmp_path, uv=uv)


def test_hidden_programs_are_off_the_path_under_any_version_and_all_others_on_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = tmp_path / "usr"
    programs.mkdir()
    for name in ("gcc", "gcc-12", "x86_64-linux-gnu-g++-12", "c++", "gcov", "cc1", "python3", "accept"):
        (programs / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{tmp_path / 'nowhere'}")
    path = portable._path_without(COMPILERS, folder=tmp_path / "programs")
    assert sorted(each.name for each in Path(path).iterdir()) == ["accept", "cc1", "gcov", "python3"]


def test_a_copy_has_the_files_of_the_checkout_and_a_file_left_in_it_is_found(tmp_path: Path) -> None:
    checkout = portable.copy_checkout(tmp_path / ODD_PLACE)
    for name in ("Makefile", ".ci/run", "tests/repository/portable.py", "ecor/demo/weights"):
        assert (checkout / name).exists()
    assert (checkout / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()
    assert portable._new_files(checkout) == set()
    (checkout / "ecor" / "__pycache__").mkdir()
    (checkout / "ecor" / "__pycache__" / "model.pyc").touch()
    assert portable._new_files(checkout) == set()
    (checkout / "mlflow.db").touch()  # git ignores it
    (checkout / "README.md").write_text("changed")
    assert portable._new_files(checkout) == {"mlflow.db", "README.md"}


def test_the_report_of_pytest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "test_four.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "test_four.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True)
    read = {"report": report, "code": ended.returncode, "seconds": 2.0}
    found = portable._read_report(replace(PLAIN, must_skip="no PostgreSQL"), **read, left=[])
    assert found == Outcome(setting="plain", passed=1, failed=2, skipped=3, seconds=2.0)
    found = portable._read_report(replace(PLAIN, must_skip="no Chromium"), **read, left=["mlflow.db"])
    assert "no Chromium" in found.fault and "left in the checkout: mlflow.db" in found.fault
    nothing = portable._read_report(PLAIN, tmp_path / "none.xml", code=4, left=[], seconds=1.0)
    assert nothing.fault == "pytest ended with code 4"


def test_the_table_says_why_a_setting_was_not_run() -> None:
    outcomes = [
        Outcome(setting="a", passed=3, skipped=1, seconds=4.4),
        Outcome(setting="b", missing="there is no uv"),
        Outcome(setting="c", passed=2, fault="left in the checkout: x"),
    ]
    lines = portable.table(outcomes).splitlines()[2:]
    assert lines == [
        "| a | 3 | 0 | 1 | 4 |  |",
        "| b |  |  |  |  | not run: there is no uv |",
        "| c | 2 | 0 | 0 | 0 | left in the checkout: x |",
    ]
