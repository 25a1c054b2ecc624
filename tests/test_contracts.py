"""The rooms import only what the contracts in pyproject.toml allow."""

from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]


def test_import_contracts_hold(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exit_code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert exit_code == 0, capsys.readouterr().out


def test_architecture_names_every_room():
    shown = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path for folder in ("ecor", "ecor/demo", "pipelines") for path in (ROOT / folder).glob("*.py")]
    missing = [path.name for path in rooms if path.name != "__init__.py" and f"`{path.name}`" not in shown]
    assert not missing
