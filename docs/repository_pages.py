"""MkDocs hook: pages that lie outside `docs/`, and links that work on the site as they do in the repository."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "infra/README.md": "clusters.md",
}
"""Site path of each page that is not in `docs/`, by its path in the repository."""
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:!\[[^]]*\]\([^)]*\)|[^]])*)\]\((?P<target>[^)\s]+)\)")
_NOTEBOOK_LINK = re.compile(r'href="([^":#]+)\.md(#[^"]*)?"')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES` to the site."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the page's relative links at the site."""
    if page.file.src_uri.endswith(".ipynb"):
        return markdown
    return _LINK.sub(lambda link: site_link(link, page=page.file.src_uri), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point a notebook's links to pages at the site: MkDocs does so for Markdown alone."""
    return _NOTEBOOK_LINK.sub(r'href="\1.html\2"', html) if page.file.src_uri.endswith(".ipynb") else html


def site_link(link: re.Match[str], *, page: str) -> str:
    """One Markdown link, relative to its page on the site; only its text where the target is not on the site.

    Raises:
        PluginError: if the repository has no such file.
    """
    path, hash_mark, anchor = link["target"].partition("#")
    if not path or ":" in path:
        return link[0]
    source = _SOURCES.get(page, f"docs/{page}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (ROOT / target).exists():
        raise PluginError(f"{source} links to {link['target']}, which the repository does not have")
    if target not in PAGES and not target.startswith("docs/"):
        return link["text"]
    on_site = posixpath.relpath(PAGES.get(target, target.removeprefix("docs/")), posixpath.dirname(page) or ".")
    return f"{link['image']}[{link['text']}]({on_site}{hash_mark}{anchor})"
