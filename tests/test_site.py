"""The documentation site builds without a warning, offline, and loads nothing from elsewhere."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from documented import PAGES, blocks

ROOT = Path(__file__).parents[1]
EXPANDED = runpy.run_path(str(ROOT / "scripts/site_pages.py"))["expanded"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def build(config, target):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", target],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / ".mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site):
    docs = ROOT / "docs"
    wanted = {p.relative_to(docs).with_suffix(".html") for p in docs.rglob("*.md")}
    assert {p.relative_to(site) for p in site.rglob("*.html")} == wanted | {Path("404.html")}


def test_nothing_is_loaded_from_elsewhere(site):
    loading = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>")
    assert not [found for page in site.rglob("*.html") for found in loading.findall(page.read_text())]


def test_every_block_is_shown_as_code_and_no_comment_is_seen(site):
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            html = (site / page.relative_to(ROOT / "docs").with_suffix(".html")).read_text()
            assert html.count('<div class="highlight"><pre>') >= len(blocks(page.read_text())), page
            assert "```" not in html, page
            assert "&lt;!--" not in re.sub(r"<code>.*?</code>", "", html, flags=re.DOTALL)


def test_dead_links_end_the_build(tmp_path):
    links = ["nowhere.md", "quickstart.md#nowhere", "/quickstart.md", "schema/"]
    for name in (".mkdocs.yml", "scripts/site_pages.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    (tmp_path / "docs/ci.md").write_text("# Title\n\n" + " ".join(f"[text]({link})" for link in links))
    done = build(tmp_path / ".mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert all(any(f"'{link}'" in warning for warning in warnings) for link in links), done.stderr


def test_a_folder_of_the_navigation_stands_for_its_pages(tmp_path):
    for name in ("b.md", "a.md", "c.json"):
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / name).touch()
    nav = ["index.md", {"Results": ["results/"]}, {"More": "more.md"}]
    assert EXPANDED(nav, tmp_path) == ["index.md", {"Results": ["results/a.md", "results/b.md"]}, {"More": "more.md"}]


def test_links_of_the_readme_lead_somewhere():
    links = [link for link in LINK.findall((ROOT / "README.md").read_text()) if "://" not in link]
    assert len(links) > 10
    for link in links:
        path, _, anchor = link.partition("#")
        target = ROOT / (path or "README.md")
        assert target.exists(), link
        assert not anchor or anchor in map(slug, re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)), link


def slug(title):
    """A heading's anchor on GitHub."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
