"""The rooms import only what the contracts in pyproject.toml allow, and the picture of the house names them all."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_import_contracts_hold():
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_architecture_names_every_room():
    shown = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [
        path for folder in ("ecor", "ecor/demo", "ecor/explain", "pipelines") for path in (ROOT / folder).glob("*.py")
    ]
    missing = [path.name for path in rooms if path.name != "__init__.py" and f"`{path.name}`" not in shown]
    packages = [path for each in ("ecor/storage", "pipelines/runtime") for path in (ROOT / each).glob("*.py")]
    named = ["/".join(path.parts[-2:]) for path in packages if path.name != "__init__.py"]
    missing += [name for name in named if f"`{name}`" not in shown]
    assert not missing
