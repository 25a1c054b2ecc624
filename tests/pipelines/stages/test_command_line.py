"""`ecor`: quick help, one clear line and exit code 2 for a user's mistake, a traceback and 1 for ours.

Covers: `pipelines.__main__`, `pipelines.commands`, `pipelines.label_commands`, `pipelines.study_commands`.
"""

import ast
import inspect
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import ecor as ecor_package
from pipelines.__main__ import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    _error_line,
    _parse_command,
    exit_code,
    main,
)
from pipelines.commands import Command

ROOT = Path(__file__).resolve().parents[3]

STAGES = (
    "demo",
    "run",
    "shard",
    "pretrain",
    "train",
    "register",
    "evaluate",
    "promote",
    "score",
    "audit",
    "export",
    "import",
    "explain",
    "report",
)


def ecor(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipelines", *args], capture_output=True, text=True)


def test_help_imports_nothing_heavy():
    heavy = ("torch", "ray", "mlflow", "open_clip", "pandas")
    code = f"import sys, pipelines.__main__; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def used_cpu_s() -> float:
    """CPU seconds of finished child processes: other work on the machine hardly changes them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_names_every_stage_and_answers_at_once():
    seconds = []
    for _ in range(3):
        before = used_cpu_s()
        done = ecor("--help")
        seconds.append(used_cpu_s() - before)
    assert done.returncode == EXIT_DONE
    assert all(stage in done.stdout for stage in STAGES)
    assert min(seconds) < 5, "torch must not be imported for --help"


def test_it_tells_its_version(capsys):
    assert main(["--version"]) == EXIT_DONE
    assert capsys.readouterr().out == f"ecor {ecor_package.__version__}\n"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_help_with_defaults(stage, capsys):
    with pytest.raises(SystemExit) as stop:
        main([stage, "--help"])
    assert stop.value.code == EXIT_DONE
    shown = capsys.readouterr().out
    assert "default" in shown or stage == "run"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["train", "--shards", "s", "--output", "o", "--num-epochs", "0"], "num_epochs must be at least 1, got 0"),
        (["train", "--shards", "no-such-folder", "--output", "o"], "no-such-folder"),
        (["shard", "--input", "no-such-folder", "--output", "o"], "no-such-folder"),
        (["run", "no-such-file.toml"], "no-such-file.toml"),
    ],
)
def test_a_users_mistake_is_one_line_and_2(args, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == EXIT_USER_ERROR
    shown = capsys.readouterr().err.strip()
    assert told in shown
    assert len(shown.splitlines()) == 1
    assert not any(tmp_path.iterdir()), "nothing half-written"


def test_a_wrong_nested_setting_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["score", "--input", "i", "--output", "o", "--scoring.top-k", "0"])
    assert stop.value.code == EXIT_USER_ERROR
    shown = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert "scoring: top_k must be at least 1, got 0" in shown
    assert "dummy" not in shown


def test_a_wrong_setting_of_the_cluster_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["shard", "--input", "i", "--output", "o", "--cluster.num-cpus", "0"])
    assert stop.value.code == EXIT_USER_ERROR
    shown = capsys.readouterr().err
    assert "num_cpus must be at least 1, got 0" in shown
    assert "dummy" not in shown


@pytest.mark.parametrize(
    ("deed", "remedy"),
    [
        (lambda place: (place / "file" / "x").write_text(""), "a file is where a folder should be"),
        (lambda place: (place / "file").mkdir(), "a file is where a folder should be"),
        (lambda place: place.write_text(""), "a folder is where a file should be"),
    ],
)
def test_a_place_of_the_wrong_kind_is_named_with_the_remedy(deed, remedy, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert exit_code(lambda: deed(tmp_path)) == EXIT_USER_ERROR
    shown = capsys.readouterr().err
    assert str(tmp_path) in shown
    assert remedy in shown
    assert "Errno" not in shown


def test_an_unknown_option_is_2_and_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--shards", "s", "--output", "o", "--num-epoch", "3"])
    assert stop.value.code == EXIT_USER_ERROR
    assert "--num-epochs" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{each.name}" for each in (ROOT / "docs").glob("*.md"))])
def test_commands_in_the_prose_of_a_page_are_taken(page, capsys):
    """Those in blocks are run by `test_readme.py` and `test_tutorial.py`; here required settings may be left out."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)
    for found in re.findall(r"`ecor (\w[^`]*)`", text):
        words = shlex.split(" ".join(found.split()))
        if len(words) == 1 or words[-1].startswith("--"):  # a stage, or an option of one, is spoken of
            continue
        if words[0] == "score" and not {"--input", "--features"} & set(words):  # one of them is required
            words += ["--input", "x"]
        with suppress(SystemExit):
            _parse_command(words)
        for missing in re.findall(r"(--\S+) STR", capsys.readouterr().err):
            words += [missing, "x"]
        _parse_command(words)


def unexplained(kind: type) -> Iterator[tuple[str, str]]:
    """Of a dataclass and those in it: the names of settings that no sentence explains."""
    body = ast.parse(inspect.getsource(kind)).body[0].body
    hints, settings = get_type_hints(kind), {each.name for each in fields(kind)}
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or statement.target.id not in settings:
            continue
        name = statement.target.id
        if is_dataclass(hints[name]):
            yield from unexplained(hints[name])
        elif not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
            yield kind.__name__, name


@pytest.mark.parametrize("command", [get_args(each)[0] for each in get_args(Command)])
def test_every_setting_is_explained(command):
    assert list(unexplained(command)) == []


def test_exit_codes(capsys):
    def raising(error: BaseException):
        def deed() -> None:
            raise error

        return deed

    assert exit_code(lambda: None) == EXIT_DONE
    assert exit_code(raising(KeyboardInterrupt())) == EXIT_INTERRUPTED
    assert exit_code(raising(OSError("disk full"))) == EXIT_USER_ERROR
    assert "Traceback" not in capsys.readouterr().err
    assert exit_code(raising(KeyError("ours"))) == EXIT_FAILED
    assert "Traceback" in capsys.readouterr().err


def test_a_terminal_without_utf8_gets_escapes_and_no_error(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    missing = ["evaluate", "--predictions", "größe …", "--output", str(tmp_path / "out")]
    for words, code, shown in ((["--help"], EXIT_DONE, "score"), (missing, EXIT_USER_ERROR, "gr\\xf6\\xdfe \\u2026")):
        command = [sys.executable, "-m", "pipelines", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == code and shown in done.stdout + done.stderr, done.stderr[-300:]
        assert "Traceback" not in done.stderr


def test_a_call_of_ray_without_a_cluster_starts_none():
    """As of a thread that a stalled stage has left behind."""
    code = "import pipelines.__main__ as c; c._end_process = print; c.main(); import ray; ray.put(1)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.stdout.startswith("ecor ")
    assert done.returncode == 1 and "ray has not been started yet" in done.stderr.lower(), done.stderr


def run_python(code: str) -> subprocess.Popen[str]:
    """A process that runs a command whose work is `code`."""
    lines = ["import pipelines.__main__ as c", "def work(words):", *(f"    {line}" for line in code.splitlines())]
    program = "\n".join([*lines, "c._run_command = work", "c.main()"])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program], text=True, cwd=ROOT, **pipes)


def test_the_process_ends_after_its_threads_and_exit_functions():
    process = run_python(
        "import atexit, threading, time\n"
        "atexit.register(lambda: print('exit function', end=' '))\n"
        "threading.Thread(target=lambda: (time.sleep(0.5), print('thread', end=' '))).start()\n"
        "return 3"
    )
    said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (3, "thread exit function ", "")


def test_sigterm_ends_a_command_as_ctrl_c_does():
    process = run_python(
        "import tempfile, time\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)"
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert folder.is_dir()
    process.terminate()
    said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (143, "", "terminated: run the same command again to resume\n")
    assert not folder.exists()


@pytest.mark.parametrize(("given", "found"), [(None, "passive 1000"), ("active", "active None")])
def test_threads_of_torch_wait_asleep_unless_the_environment_says_otherwise(given, found, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    process = run_python("import os\nprint(*map(os.environ.get, ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')))")
    assert process.communicate(timeout=60) == (f"{found}\n", "")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--version > /dev/full", EXIT_USER_ERROR),
        ("score --help > /dev/full", EXIT_USER_ERROR),
        ("--version >&-", EXIT_DONE),
        ("score --input nowhere --output out --model nowhere 2>&-", EXIT_USER_ERROR),
        ("score --help | head -n 1", EXIT_DONE),
    ],
)
def test_a_full_or_closed_output_is_no_bug(words, code, tmp_path):
    if "/dev/full" in words and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m pipelines {words}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert ("No space left on device" in done.stderr) == ("/dev/full" in words)


@pytest.mark.parametrize("last", ["true", "head -n 1"])
def test_a_line_that_nobody_reads_ends_well(last):
    """Also where the line is printed by rich, which would end the process."""
    code = (
        "import sys, time; time.sleep(0.3); from pipelines.__main__ import exit_code; "
        "from pipelines.runtime.console import say; "
        "sys.exit(exit_code(lambda: [say('x' * 100, to_stdout=True) for _ in range(2000)] and None))"
    )
    words = f"set -o pipefail; {shlex.quote(sys.executable)} -c {shlex.quote(code)} | {last}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (EXIT_DONE, "")


def test_a_broken_pipe_that_is_not_stdout_is_an_error(capsys):
    def fail():
        raise BrokenPipeError(32, "Broken pipe")

    assert exit_code(fail) == EXIT_USER_ERROR
    assert "Broken pipe" in capsys.readouterr().err


def test_a_working_folder_that_is_gone_is_told(monkeypatch, tmp_path, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["score", "--input", "in", "--output", "out", "--model", "models:/a/1"]) == EXIT_USER_ERROR
    assert capsys.readouterr().err == "ecor: the working folder is no longer there: change to another one (cd)\n"


def test_an_error_line_is_never_longer_than_500_characters():
    """What is first and last stays: the value, and the remedy."""
    line = _error_line(ValueError(f"table.csv, row 3: {'x' * 9000}: write the path of a file"))
    assert len(line) == 500 and line.startswith("table.csv, row 3: xxx") and line.endswith(": write the path of a file")
    assert _error_line(OSError("y" * 500)) == "y" * 500
