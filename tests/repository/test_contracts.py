"""Packages import only what the contracts in pyproject.toml allow, and docs/architecture.md names them all."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WORDS = {
    "temperature calibration": "temperature",
    "calibrated confidence of pair and category": "def pair_probability",
    "probability that a rationale is visible": "def visible_probability",
    "Sinkhorn": "[Ss]inkhorn",
    "K doubled until exact": "doubl",
    "log-Q sampling": "log-Q|log Q|log_q|log inclusion",
    "EXIF": "exif",
    "retries on S3": "def with_retries",
    "learning-rate schedule": "warmup",
    "prompt tokens in the ViT": "visual",
    "lease renewal": "lease",
    "the alias moved in MLflow": "alias",
    "duplicates removed": "cop(y|ies)|duplicate",
    "CPUs and GPUs per actor": "gpus_per",
    "the page's JavaScript": "addEventListener",
    "WordNet reader": "WordNet",
    "exit codes": "exit code",
}
"""What each file of the table `Where to look` must speak of."""


def test_import_contracts_hold():
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_architecture_names_every_package_and_no_other():
    shown = set(re.findall(r"^\| `((?:ecor|pipelines)/[\w/.]+)` \|", ARCHITECTURE, flags=re.MULTILINE))
    found = {
        f"{path.relative_to(ROOT)}" + ("/" if path.is_dir() else "")
        for top in ("ecor", "pipelines")
        for path in (ROOT / top).iterdir()
        if (path.is_dir() and (path / "__init__.py").exists()) or (path.suffix == ".py" and path.name != "__init__.py")
    }
    assert shown == found


def test_every_file_that_architecture_names_exists():
    named = set(re.findall(r"`((?:ecor|pipelines|tests)/[\w/.]+)`", ARCHITECTURE))
    assert len(named) > 40
    assert not sorted(name for name in named if not (ROOT / name).exists())


def test_where_to_look_is_where_it_is():
    table = ARCHITECTURE.split("## Where to look")[1].split("## ")[0]
    found = dict(re.findall(r"^\| ([^|`]+) \| `([^`]+)` \|", table, flags=re.MULTILINE))
    assert found.keys() - {"for"} == WORDS.keys()
    for what, pattern in WORDS.items():
        assert re.search(pattern, (ROOT / found[what]).read_text(encoding="utf-8")), what


def test_no_folder_is_crowded():
    """At most 12 modules a package, 15 at the tops."""
    for top in ("ecor", "pipelines"):
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(modules) <= (15 if folder == ROOT / top else 12), folder


def test_every_module_has_a_test_of_its_name_or_is_named_where_it_is_tested():
    named: dict[str, Path] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for name in re.findall(r"`([\w.]+)`", text.partition("Covers:")[2]):
            assert name not in named, f"{name} is named in {path} and in {named[name]}"
            assert (ROOT / Path(*name.split("."))).with_suffix(".py").is_file(), f"{path} names {name}"
            named[name] = path
    missing = []
    for top in ("ecor", "pipelines"):
        for path in sorted((ROOT / top).rglob("*.py")):
            module = path.relative_to(ROOT)
            own = ROOT / "tests" / module.parent / f"test_{module.name}"
            is_drawing = module.is_relative_to("ecor/demo/art")  # long lists of strokes, tested as whole worlds
            if path.name != "__init__.py" and not is_drawing and not own.is_file():
                missing += [str(module)] if ".".join(module.with_suffix("").parts) not in named else []
    assert not missing


def test_benchmarks_import_only_names_that_exist():
    missing = []
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"ecor", "pipelines", "tests"}:
                module = importlib.import_module(node.module or "")
                submodules = {each.name for each in pkgutil.iter_modules(getattr(module, "__path__", []))}
                names = [each.name for each in node.names if each.name not in submodules]
                missing += [f"{path.name}: {node.module}.{name}" for name in names if not hasattr(module, name)]
    assert not missing
