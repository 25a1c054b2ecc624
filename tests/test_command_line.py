"""`ecor`: quick help, one clear line and exit code 2 for a user's mistake, a traceback and 1 for ours."""

import subprocess
import sys
import time

import pytest

from pipelines.__main__ import DONE, FAILED, INTERRUPTED, USER_MISTAKE, exit_code, main

STAGES = ("demo", "run", "shard", "pretrain", "train", "register", "evaluate", "promote", "score", "explain", "report")


def ecor(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipelines", *args], capture_output=True, text=True)


def test_help_imports_nothing_heavy():
    heavy = ("torch", "ray", "mlflow", "open_clip", "pandas")
    code = f"import sys, pipelines.__main__; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_help_names_every_stage_and_answers_at_once():
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = ecor("--help")
        seconds.append(time.perf_counter() - started)
    assert done.returncode == DONE
    assert all(stage in done.stdout for stage in STAGES)
    assert min(seconds) < 5, "torch must not be imported for --help"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_help_with_defaults(stage, capsys):
    with pytest.raises(SystemExit) as stop:
        main([stage, "--help"])
    assert stop.value.code == DONE
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
    assert main(args) == USER_MISTAKE
    shown = capsys.readouterr().err.strip()
    assert told in shown
    assert len(shown.splitlines()) == 1
    assert not any(tmp_path.iterdir()), "nothing half-written"


def test_a_wrong_nested_setting_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["score", "--input", "i", "--output", "o", "--scoring.top-k", "0"])
    assert stop.value.code == USER_MISTAKE
    shown = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert "scoring: top_k must be at least 1, got 0" in shown
    assert "dummy" not in shown


def test_an_unknown_option_is_2_and_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--shards", "s", "--output", "o", "--num-epoch", "3"])
    assert stop.value.code == USER_MISTAKE
    assert "--num-epochs" in capsys.readouterr().err


def test_exit_codes(capsys):
    def raising(error: BaseException):
        def deed() -> None:
            raise error

        return deed

    assert exit_code(lambda: None) == DONE
    assert exit_code(raising(KeyboardInterrupt())) == INTERRUPTED
    assert exit_code(raising(OSError("disk full"))) == USER_MISTAKE
    assert "Traceback" not in capsys.readouterr().err
    assert exit_code(raising(KeyError("ours"))) == FAILED
    assert "Traceback" in capsys.readouterr().err
