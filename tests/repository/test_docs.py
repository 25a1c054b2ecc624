"""The documentation site is built strictly and asks nothing of the net; the tutorial runs; completion is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
_FETCHED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'\s>]+|<link\b[^>]*stylesheet[^>]*//[^>]+"
)
_LINKED = re.compile(r"<(?:a|link|img|script)\b[^>]*\b(?:href|src)=\"([^\":#?]+)[#?\"]")
_CSS_FETCHED = re.compile(r"(?:@import\s+|url\()[\"']?(?:https?:)?//[^)\"']+")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, where no proxy could be asked."""
    target = tmp_path_factory.mktemp("site")
    unreachable = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "--site-dir", str(target)],
        cwd=ROOT,
        env=os.environ | unreachable | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return target


@pytest.mark.slow
def test_every_page_is_built_and_fetches_nothing_from_the_net(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    written = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")
    }
    assert {each for each in written if not each.endswith("-words.html")} <= pages
    assert {"index.html", "contributing.html", "tutorial.html"} <= pages
    for page in site.rglob("*.html"):
        assert not (found := _FETCHED.findall(page.read_text(encoding="utf-8"))), (page.name, found)
    for sheet in site.rglob("*.css"):
        assert not (found := _CSS_FETCHED.findall(sheet.read_text(encoding="utf-8"))), (sheet.name, found)


@pytest.mark.slow
def test_every_link_within_the_site_leads_to_a_file(site: Path) -> None:
    """Also those of the notebook, which MkDocs does not check."""
    followed = 0
    for page in site.rglob("*.html"):
        for target in _LINKED.findall(page.read_text(encoding="utf-8")):
            if page.name != "404.html":  # its links start at the root of a server
                assert (page.parent / unquote(target)).exists(), (page.name, target)
                followed += 1
    assert followed > 100


@pytest.mark.slow
def test_public_names_are_on_the_api_page(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in ("ecor.load", "ecor.Recognizer", "ecor.Recognizer.predict", "ecor.explain.explain", "ecor.METHODS"):
        assert f'id="{name}"' in page, name


def test_links_that_leave_the_site_lose_their_target_and_a_missing_file_is_an_error() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from repository_pages import _LINK, PluginError, site_link
    finally:
        sys.path.remove(str(ROOT / "docs"))

    def linked(text: str, page: str) -> str:
        return _LINK.sub(lambda link: site_link(link, page=page), text)

    assert linked("[a](docs/explain.md#in-bulk)", "index.md") == "[a](explain.md#in-bulk)"
    assert linked("[a](../README.md)", "explain.md") == "[a](index.md)"
    assert linked("![a](docs/report.png)", "index.md") == "![a](report.png)"
    assert linked("[a](../results.md)", "other/results.md") == "[a](../results.md)"
    assert linked("[a](../docs/stores.md)", "clusters.md") == "[a](stores.md)"
    assert linked("[a](pyproject.toml)", "index.md") == "a"
    assert linked("[a](https://example.org) [b](#c)", "index.md") == "[a](https://example.org) [b](#c)"
    with pytest.raises(PluginError, match=r"nowhere\.md, which the repository does not have"):
        linked("[a](nowhere.md)", "index.md")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_runs_and_says_what_it_shows(tmp_path: Path) -> None:
    assert TUTORIAL.stat().st_size < 100_000
    notebook = nbformat.read(TUTORIAL, as_version=4)
    assert all(len(str(each)) < 30_000 for cell in notebook.cells for each in cell.get("outputs", []))
    shown = printed(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", timeout=600, resources=place).execute()
    assert printed(notebook) == shown


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What its cells print, without numbers: those may differ in the last digit between machines."""
    outputs = [each for cell in notebook.cells if cell.cell_type == "code" for each in cell.outputs]
    return [re.sub(r"\d+\.\d+", "", each.text) for each in outputs if each.get("name") == "stdout"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_and_knows_the_commands(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "--tyro-print-completion", shell], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "explain-benchmark" in done.stdout and "promote" in done.stdout


def test_make_help_lists_every_command_that_the_guide_names() -> None:
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT)
    listed = {line.split()[0] for line in done.stdout.splitlines() if not line.startswith("make")}
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert listed == set(phony.split())
    assert set(re.findall(r"`?make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text())) <= listed
