"""The rooms import only what the contracts in pyproject.toml allow, and the picture of the house names them all."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("ecor", "ecor/clip", "ecor/demo", "ecor/explain", "ecor/probability", "pipelines")


def test_import_contracts_hold():
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_architecture_names_every_room():
    shown = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
    missing = [path.name for path in rooms if path.name != "__init__.py" and f"`{path.name}`" not in shown]
    assert not missing
