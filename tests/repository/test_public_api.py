"""The public names of `ecor`: light to import, typed for mypy, documented on the site."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import griffe
import pytest

import ecor

ROOT = Path(__file__).resolve().parents[2]
STUBS = {"ecor": ROOT / "ecor" / "__init__.pyi", "ecor.explain": ROOT / "ecor" / "explain" / "__init__.pyi"}
PACKAGES = {"demo", "explain"}


def names_in(stub: Path) -> list[str]:
    """What a stub re-exports."""
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    return sorted(alias.name for node in imports for alias in node.names)


@pytest.mark.parametrize("package", STUBS)
def test_the_stub_names_what_is_there_and_each_name_imports(package: str) -> None:
    module = importlib.import_module(package)
    assert names_in(STUBS[package]) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, ecor; print([name for name in ('torch', 'pandas', 'open_clip') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_name_means_the_same_whatever_was_imported_before() -> None:
    """`ecor.explain` is the package, also before and after its modules are imported."""
    for first in ("import ecor.explain", "from ecor import explain_joint"):
        code = f"{first}\nimport ecor, types; print(isinstance(ecor.explain, types.ModuleType))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.strip() == "True", done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mypy_sees_types(tmp_path: Path) -> None:
    names = sorted(set(ecor.__all__) - PACKAGES)
    lines = [*(f"reveal_type(ecor.{name})" for name in names), "reveal_type(ecor.explain.explain)", "ecor.load(1)"]
    snippet = tmp_path / "snippet.py"
    snippet.write_text("\n".join(["import ecor", *lines]))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, str(snippet)], capture_output=True, text=True, cwd=ROOT)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(names) + 1, done.stdout
    assert [each for each in revealed if not re.match(r"def \(|(?:builtins\.)?dict\[str, type\[ecor\.", each)] == []
    assert re.search(r':\d+: error: Argument 1 to "load" has incompatible type "int"', done.stdout), done.stdout


def documented() -> dict[str, str | None]:
    """The docstring of each public name, as the site reads it."""
    package = griffe.load("ecor", search_paths=[str(ROOT)], resolve_aliases=True)
    found = {}
    for name in ecor.__all__:
        item = package[name]
        item = item.final_target if item.is_alias else item
        found[name] = item.docstring.value if item.docstring else None
    return found


def test_every_public_name_has_a_docstring_and_a_place_on_the_site() -> None:
    assert [name for name, text in documented().items() if not text] == []
    listed = re.findall(r"^::: ecor\.(\w+)", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert sorted(listed) == sorted(ecor.__all__)
