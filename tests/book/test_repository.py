"""One version and one address: `_config.yml` says them, and notebooks, README and package follow."""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import adlib
from repository import ROOT, Repository, apply, badge, read_repository, setup_cell

HERE = read_repository()
CLONE = Repository("https://github.com/OWNER/adlib", "v0.1.0")
NEW = Repository("https://github.com/new-owner/defects-book", "v0.2.0")
RAW = "https://raw.githubusercontent.com/new-owner/defects-book/v0.2.0"


def test_version_is_the_same_everywhere() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = settings["project"]["version"]
    assert HERE.tag == f"v{version}" and adlib.__version__ == version
    for file in settings["tool"]["bumpversion"]["files"]:  # what a release replaces
        found = file["search"].format(current_version=version) in (ROOT / file["filename"]).read_text(encoding="utf-8")
        assert found or (file.get("ignore_missing_version") and not HERE.published), file["filename"]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_follow(path: Path) -> None:
    applied = copy.deepcopy(notebook := nbformat.read(path, as_version=4))
    apply(applied, path.name, HERE)
    assert applied == notebook, "python book/tools/repository.py"
    apply(applied, path.name, CLONE)
    text = "\n".join(cell.source for cell in applied.cells if cell.cell_type == "markdown")
    for target in map("".join, re.findall(r'!\[[^\]]*\]\(([^)\s]+)|<img[^>]* src="([^"]+)', text)):
        # Colab shows no attachment, and the book is read without a network.
        assert target.startswith("../book/_static/") and (path.parent / target).is_file(), target


@pytest.mark.parametrize(("name", "line"), [
    ("README.md", "colab.research.google.com/github/{0.slug}/blob/{0.tag}/notebooks/00_quickstart.ipynb"),
    ("README.md", 'pip install "adlib @ git+{0.url}@{0.tag}"'),
    ("pyproject.toml", '[project.urls]\nRepository = "{0.url}"'),
    ("_config.yml", "use_repository_button: true"), ("_config.yml", "colab_url: https://colab.research.google.com"),
])
def test_badges_and_links_are_there_once_there_is_an_address(name: str, line: str) -> None:
    assert (line.format(HERE) in (ROOT / name).read_text(encoding="utf-8")) == HERE.published


def test_no_file_names_another_address() -> None:
    """A stranger may own the account that the stand-in names."""
    command = ["git", "ls-files", "README.md", "*.toml", "book/*.md", "notebooks", "adlib"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "adlib/weights/adlib_resnet18_v2.md" in listed
    text = "\n".join((ROOT / name).read_text(encoding="utf-8", errors="ignore") for name in listed)
    named = re.findall(rf"github(?:\.com|usercontent\.com)?/([\w-]+/{HERE.slug.split('/')[1]})\b", text)
    assert set(named) <= ({HERE.slug} if HERE.published else set())


def notebook_for(repository: Repository) -> nbformat.NotebookNode:
    """A notebook as `apply` should leave it."""
    public = repository.published
    shown = f"{RAW}/book/_static/a-1.svg?sanitize=true" if public else "../book/_static/a-1.svg"
    top = f"# 2 · A\n\n{badge(repository, '02_a.ipynb')}\n\nText" if public else "# 2 · A\n\nText"
    cells = [new_markdown_cell(f"{top}\n\n![two (2)]({shown}) <img src=\"{shown}\" width='9'> `../book/_static/c.svg`"),
             new_code_cell(setup_cell(repository), metadata={"tags": ["setup"]}),
             new_code_cell(f'x = 1\nREPOSITORY = "{RAW if public else "file:.."}"  # for urlopen')]
    return new_notebook(cells=cells)


@pytest.mark.parametrize("old", [CLONE, NEW, Repository("https://github.com/a/b", "v0.1.0")])
@pytest.mark.parametrize(("new", "what"), [(CLONE, ".."), (NEW, f'"adlib @ git+{NEW.url}@v0.2.0"')])
def test_apply(old: Repository, new: Repository, what: str) -> None:
    notebook = notebook_for(old)
    apply(notebook, "02_a.ipynb", new)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in notebook_for(new).cells]
    assert f"    %pip install -q {what}\n" in notebook.cells[1].source, "adlib alone: the reader's torch stays"
    del notebook.cells[1]
    with pytest.raises(ValueError, match="a.ipynb: expected the tag 'setup' on one code cell, found it on 0"):
        apply(notebook, "02_a.ipynb", new)


@pytest.mark.parametrize(("url", "tag"), [
    ("github.com/a/b", "v1"), ("https://example.org/a/b", "v1"), ("https://github.com/a", "v1"),
    ("https://github.com/a/b/", "v1"), ("https://github.com/a/b.git", "v1"), ("https://github.com/a/b", "main"),
])
def test_unusable_addresses_are_refused(tmp_path: Path, url: str, tag: str) -> None:
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: {url}\n  branch: {tag}\n")
    with pytest.raises(ValueError, match=f"_config.yml, repository: expected .* it has {url} and {tag}"):
        read_repository(tmp_path)
