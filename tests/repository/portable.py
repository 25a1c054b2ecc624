"""Settings of machines in, a table of test results out: processors, threads, Pythons, missing programs, odd places.

    make test-portable                             # all settings that this machine can do, one after another
    make test-portable PORTABLE="--only 'no home'" # settings whose name contains the words
    make test-portable PORTABLE=--quick            # a part of the tests, about two minutes a setting
    make test-portable PORTABLE=--today            # one setting, another one each day, quick: what CI runs
    make test-portable PORTABLE=--list             # the names

Each setting runs its tests in a copy of the checkout, and fails if a test fails, if a missing program is not named by
a skipped test, or if a file is left behind. Pythons come from uv, with the locked packages, into a temporary folder: a
minute and 6 GB each. Ends with exit code 1 if a setting failed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUMERIC = tuple(f"tests/ecor/{name}" for name in ("probability", "clip", "training", "evaluation", "explain"))
NUMERIC += tuple(f"tests/ecor/{name}" for name in ("eclip", "lico", "convis", "test_model.py", "test_checkpoint.py"))
FILES = ("tests/ecor/data", "tests/ecor/storage", "tests/pipelines")
ODD_PLACE = "a place, 100%25 odd"
"""Space, comma, percent sign, and an escape that must stay as it is."""
COMPILERS = ("c++", "g++", "cc", "gcc", "clang", "clang++")
FAST = ("-m", "not slow")
_FLAGS = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
"""Of a processor that has what torch is to use: without it, torch ends with an illegal instruction."""
_CACHES = ("__pycache__", ".pytest_cache", ".hypothesis")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A kind of machine, and the tests that may notice it."""

    name: str
    tests: tuple[str, ...]
    """Arguments of pytest."""
    quick: tuple[str, ...]
    """Arguments for a part of the tests: about two minutes on two cores."""
    in_ci: bool = True
    """Whether it takes its turn in CI."""
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """Variables of the tests; None: not set."""
    hidden: tuple[str, ...] = ()
    """Programs that are not on the path."""
    must_skip: str | None = None
    """The reason of a test that must be skipped."""
    python: str | None = None
    """A version that uv is to bring; None: this one."""
    folder: str = "checkout"
    """Name of the folder with the copy."""
    parallel: bool = True
    """Several processes, each with some threads; False: one, with as many threads as the environment says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A row of the table."""

    setting: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    fault: str = ""
    """What is wrong although no test failed."""
    missing: str = ""
    """Why this machine cannot run the setting."""


def _processor(name: str, **environment: str) -> Setting:
    quick = (*FAST, *(f"tests/ecor/{each}" for each in ("probability", "training/test_steps.py", "evaluation")))
    return Setting(name=name, tests=(*FAST, *NUMERIC), quick=quick, environment=environment, parallel=False)


def _python(version: str) -> Setting:
    quick = (*FAST, "tests/ecor/probability", "tests/ecor/storage", "tests/pipelines/config", "tests/repository")
    return Setting(name=f"python: {version}", tests=FAST, quick=quick, python=version, in_ci=False)


def _without(
    name: str, *tests: str, reason: str | None, hidden: Sequence[str] = (), hide: str | None = None
) -> Setting:
    environment = {"CC": None, "CXX": None} if hidden == COMPILERS else {"ECOR_TESTS_WITHOUT": hide}
    return Setting(
        name=f"without {name}",
        tests=tests,
        quick=tests,
        environment=environment,
        hidden=tuple(hidden),
        must_skip=reason,
    )


SETTINGS = (
    # Torch's own kernels follow ATEN_CPU_CAPABILITY; its matrix products are MKL's and oneDNN's, which have variables
    # of their own.
    _processor(
        "processor: no vectors", ATEN_CPU_CAPABILITY="default", MKL_CBWR="COMPATIBLE", ONEDNN_MAX_CPU_ISA="SSE41"
    ),
    _processor("processor: avx2", ATEN_CPU_CAPABILITY="avx2", MKL_CBWR="AVX2", ONEDNN_MAX_CPU_ISA="AVX2"),
    _processor("processor: avx512", ATEN_CPU_CAPABILITY="avx512"),
    *(_processor(f"threads: {number}", OMP_NUM_THREADS=number, MKL_NUM_THREADS=number) for number in ("1", "2", "8")),
    *(_python(each) for each in ("3.11", "3.12", "3.13")),
    _without(
        "chromium",
        *("-m", "slow", "tests/pipelines/reporting/test_overlays.py", "tests/pipelines/stages/test_report.py"),
        hidden=("chromium", "chromium-browser", "google-chrome", "chrome"),
        reason="no Chromium",
    ),
    _without("postgresql", "tests/pipelines/tracking/test_mlflow_server.py", hide="postgresql", reason="no PostgreSQL"),
    _without("wordnet", "tests/ecor/convis", "tests/pipelines/storage", *FAST, hide="wordnet", reason="wordnet-base"),
    _without("a compiler", "tests/ecor/clip/test_backbone.py", "tests/ecor/storage", hidden=COMPILERS, reason=None),
    Setting(
        name="LANG=C",
        tests=(*FAST, *FILES, "tests/repository"),
        quick=(*FAST, "tests/ecor/data", "tests/ecor/storage", "tests/pipelines/config", "tests/pipelines/reporting"),
        environment={"LANG": "C", "LC_ALL": "C", "LANGUAGE": None, "PYTHONIOENCODING": None, "PYTHONUTF8": None},
    ),
    Setting(
        name="no home",
        tests=(*FAST, *FILES, "tests/ecor/test_model.py", "tests/ecor/demo"),
        quick=(*FAST, "tests/ecor/storage", "tests/pipelines/config", "tests/pipelines/tracking"),
        environment={"HOME": "/dev/null/nobody", "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None, "ECOR_CACHE": None},
    ),
    Setting(
        name="odd place",
        tests=(*FAST, *FILES, "tests/repository"),
        quick=(*FAST, "tests/ecor/storage", "tests/ecor/data", "tests/pipelines/config", "tests/pipelines/sharding"),
        folder=ODD_PLACE,
    ),
)


def run(setting: Setting, *, is_quick: bool, uv: str | None) -> Outcome:
    """Run the tests of a setting in a copy of the checkout."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ecor-portable-") as temporary:
        work = Path(temporary)
        checkout = copy_checkout(work / setting.folder)
        try:
            python = _python_of(setting, work=work, checkout=checkout, uv=uv)
        except LookupError as error:
            return Outcome(setting=setting.name, missing=str(error))
        report, before = work / "report.xml", _new_files(checkout)
        arguments = setting.quick if is_quick else setting.tests
        numprocesses = ["--numprocesses", "logical", "--maxprocesses", "8"] if setting.parallel else ["-n0"]
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *numprocesses, *arguments]
        ended = subprocess.run(command, cwd=checkout, env=_environment(setting, checkout=checkout, work=work))
        left = sorted(_new_files(checkout) - before)
        return _read_report(setting, report, code=ended.returncode, left=left, seconds=time.monotonic() - began)


def copy_checkout(folder: Path) -> Path:
    """Copy what git knows or would add, with a repository of its own; shared data stays beside it by a link."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (ROOT / name).is_file():  # not deleted
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    if (ROOT.parent / "shared").is_dir():
        (folder.parent / "shared").symlink_to(ROOT.parent / "shared")
    author = ["-c", "user.name=portable", "-c", "user.email=portable@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "copy"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def _new_files(checkout: Path) -> set[str]:
    """What git does not know or sees changed in the copy, without caches of Python's and of Hypothesis."""
    status = ["git", "status", "--porcelain", "-z", "--untracked-files=all", "--ignored=traditional"]
    found = os.fsdecode(subprocess.run(status, cwd=checkout, capture_output=True, check=True).stdout).split("\0")
    return {line[3:] for line in found if line and not any(name in line for name in _CACHES)}


def _environment(setting: Setting, *, checkout: Path, work: Path) -> dict[str, str]:
    """This process's environment, as the setting changes it."""
    changed: dict[str, str | None] = {"PYTHONPATH": str(checkout), **setting.environment}
    if setting.hidden:
        changed["PATH"] = _path_without(setting.hidden, folder=work / "programs")
    return {name: value for name, value in {**os.environ, **changed}.items() if value is not None}


def _path_without(hidden: Sequence[str], *, folder: Path) -> str:
    """A folder with links to all programs on the path but some; versions of them (gcc-12) are hidden too."""
    folder.mkdir()
    is_hidden = re.compile(rf"(.*-)?({'|'.join(map(re.escape, hidden))})(-\d+)?").fullmatch
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if not is_hidden(program.name) and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def _python_of(setting: Setting, *, work: Path, checkout: Path, uv: str | None) -> str:
    """The interpreter of a setting, with the locked packages; LookupError where this machine cannot have it."""
    capability = setting.environment.get("ATEN_CPU_CAPABILITY")
    if not _FLAGS.get(capability or "", set()) <= _processor_flags():
        raise LookupError(f"this processor has no {capability}")
    if setting.python in (None, f"{sys.version_info.major}.{sys.version_info.minor}"):
        return sys.executable
    if uv is None:
        raise LookupError("there is no uv")
    python = work / "venv" / "bin" / "python"
    locks = [word for lock in ("requirements.lock", "requirements-dev.lock") for word in ("-r", str(ROOT / lock))]
    install = ["pip", "install", "-q", "--python", str(python)]
    for words in (
        ["venv", "-q", "--python", str(setting.python), str(work / "venv")],
        [*install, *locks],
        [*install, "--no-deps", "-e", str(checkout)],
    ):
        ended = subprocess.run([uv, *words], stderr=subprocess.PIPE, text=True)
        if ended.returncode:
            raise LookupError(f"uv {words[0]}: {' '.join(ended.stderr.split())[:200]}")
    return str(python)


def _processor_flags() -> set[str]:
    """What Linux says about the processor; nothing on another system, where only torch's default is tested."""
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


def _read_report(setting: Setting, report: Path, *, code: int, left: Sequence[str], seconds: float) -> Outcome:
    """Counts of pytest's report, and what is wrong besides failed tests."""
    if not report.exists():
        return Outcome(setting=setting.name, seconds=seconds, fault=f"pytest ended with code {code}")
    suite = ElementTree.parse(report).getroot()[0]
    total, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    reasons = [each.attrib.get("message", "") for each in suite.iter("skipped")]
    faults = []
    if setting.must_skip is not None and not any(setting.must_skip in reason for reason in reasons):
        faults.append(f"no test was skipped because of “{setting.must_skip}”")
    if left:
        faults.append(f"left in the checkout: {', '.join(left[:5])}")
    if code and not failed:
        faults.append(f"pytest ended with code {code}")
    return Outcome(
        setting=setting.name,
        passed=total - failed - skipped,
        failed=failed,
        skipped=skipped,
        seconds=seconds,
        fault="; ".join(faults),
    )


def of_today(settings: Sequence[Setting], *, day: int) -> Setting:
    """The setting of a day: each in turn, but those that CI leaves out."""
    turns = [each for each in settings if each.in_ci]
    return turns[day % len(turns)]


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    lines = ["| setting | passed | failed | skipped | seconds | |", "|---|---|---|---|---|---|"]
    for each in outcomes:
        numbers = (each.passed, each.failed, each.skipped, f"{each.seconds:.0f}")
        cells = ("", "", "", "", f"not run: {each.missing}") if each.missing else (*numbers, each.fault)
        lines.append(f"| {each.setting} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="settings whose name contains these words")
    parser.add_argument("--quick", action="store_true", help="a part of the tests, about two minutes a setting")
    parser.add_argument("--today", action="store_true", help="one setting, another each day, quick")
    parser.add_argument("--list", action="store_true", help="print the names of the settings")
    words = parser.parse_args()
    chosen = [each for each in SETTINGS if words.only in each.name]
    if words.today:
        chosen = [of_today(chosen, day=datetime.now(UTC).toordinal())]
    if not chosen:
        parser.error(f"--only {words.only}: there are {', '.join(each.name for each in SETTINGS)}")
    if words.list:
        print("\n".join(each.name for each in chosen))
        return 0
    if not (ROOT / ".git").exists():
        print(f"not run: {ROOT} is no git checkout, and git lists the files to copy")
        return 0
    uv = os.environ.get("UV") or shutil.which("uv")
    outcomes = []
    for setting in chosen:
        print(f"\n{setting.name}", flush=True)
        outcomes.append(run(setting, is_quick=words.quick or words.today, uv=uv))
    print(f"\n{table(outcomes)}")
    return int(any(each.failed or each.fault for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
