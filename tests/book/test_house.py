"""Packages, licences, commands, version and address: what must agree with what, and that no failure is hidden."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pypdf import PdfReader

import adlib
from book_walk import need_chromium
from pdf import make_pdf
from repository import ROOT, Repository, apply, badge, read_repository, setup_cell

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
REQUIRED = {canonicalize_name(r.name): r.specifier for r in map(Requirement, [*PROJECT["dependencies"], *EXTRAS])}


def test_conda_environment_is_that_of_pyproject() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (by_pip,) = (e["pip"] for e in entries if not isinstance(e, str))
    assert by_pip.pop() == "-e ."
    conda = {r.name: r.specifier for r in map(Requirement, [*by_pip, *(e for e in entries if isinstance(e, str))])}
    assert str(conda.pop("python")) == PROJECT["requires-python"] and str(conda.pop("pip")) == ""
    conda["torch"] = conda.pop("pytorch")
    assert conda == REQUIRED


def test_bounds_are_lower_ones_and_constraints_exact_complete_and_of_no_place() -> None:
    """An exact pin in pyproject.toml would replace the reader's torch or numpy on Colab."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert all([s.operator for s in r.specifier] == ["=="] for r in locked)
    for name, bounds in REQUIRED.items():
        allowed = [{">="}, {">=", "<"}] if name == "jupyter-book" else [{">="}]  # jupyter-book 2 is another program
        assert {s.operator for s in bounds} in allowed, name
        versions = [next(iter(r.specifier)).version for r in locked if canonicalize_name(r.name) == name]
        assert versions, f"{name} is not in constraints.txt: run book/tools/lock.sh"
        assert all(map(bounds.contains, versions)), name
    assert "torch==2.15.0" in text and "torchvision==0.29.2" in text
    # Neither a package server nor a path of the machine that made the file.
    assert not re.search(r"://|@|--(index|find|extra)|(^|[\s'\"])/", text, re.M)


def test_every_imported_package_is_required() -> None:
    import_names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "adlib").rglob("*.py"))
    words = set(re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", text, re.M))
    words -= {*sys.stdlib_module_names, "adlib", "IPython"}  # IPython: only where a notebook runs
    # A docstring's line may begin with "from" too; what cannot be found is no package.
    needed = {import_names.get(word, word) for word in words if importlib.util.find_spec(word)}
    extras = PROJECT["optional-dependencies"]
    required = [*PROJECT["dependencies"], *extras["export"], *extras["cluster"]]
    assert needed <= {canonicalize_name(Requirement(line).name) for line in required}


@pytest.mark.parametrize(("name", "first", "last"), [
    ("LICENSE", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"),
    ("LICENSE-text", "Attribution 4.0 International", "Section 8 -- Interpretation."),
    ("book/_static/mathjax/LICENSE", "Apache License", "END OF TERMS AND CONDITIONS")])
def test_licence_texts_are_whole(name: str, first: str, last: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert first in text and last in text and len(text) > 10_000


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('sh')}\n{text}\n")
    path.chmod(0o755)


def make(folder: Path, *words: str, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run make in an empty folder with this Makefile, and with shell scripts for the programs in .venv/bin."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    for name, text in programs.items():
        script(folder / ".venv" / "bin" / name, text)
        (folder / ".venv" / ".installed").touch()
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    script(tmp_path / "python3.9", f'exec {sys.executable} -c "{pretend}" "$2"')
    done = make(tmp_path, "book", f"PYTHON={tmp_path / 'python3.9'}")
    assert done.returncode != 0 and "Python 3.11.4 or newer" in done.stderr and "3.9" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("failing", ["", "ruff", "pyrefly", "python"])
def test_make_test_hides_no_failure(tmp_path: Path, failing: str) -> None:
    programs = {n: f'echo {n} "$@"; exit {int(n == failing)}' for n in ("ruff", "pyrefly", "python")}
    done = make(tmp_path, "test-all", **programs)
    assert done.returncode == (2 if failing else 0)
    said = ("ruff check .", "pyrefly check", "--nbval-lax", "--all notebooks tests")
    assert all(command in done.stdout for command in said)


def run_ci(tree: Path, book: int = 0, test: int = 0, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/run with `programs`, as shell scripts, and a few of the machine's, but not its Chromium or apt-get."""
    for name, text in programs.items():
        script(tree / "bin" / name.replace("_", "-"), text)
    for name in ("bash", "dirname", "env", "make", "sh"):
        (tree / "bin" / name).symlink_to(shutil.which(name))
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tree / ".ci" / "run")
    (tree / "Makefile").write_text(f"book:\n\t@exit {book}\ntest:\n\t@echo 3 passed, CI=$$CI\n\t@exit {test}\n")
    env = {**os.environ, "PATH": str(tree / "bin")}
    return subprocess.run([str(tree / ".ci" / "run")], env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("book", "test", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_ci_hides_no_failure(tmp_path: Path, book: int, test: int, status: int) -> None:
    done = run_ci(tmp_path, book, test, google_chrome="")
    assert done.returncode == status and "3 passed, CI=true" in done.stdout and "Chromium" not in done.stdout


@pytest.mark.parametrize(("user", "status", "message", "tried"), [
    (0, 0, "", ["apt-get update", "apt-get install -y -qq --no-install-recommends chromium"]),
    (0, 100, "Chromium could not be installed", ["apt-get update"]),
    (1000, 0, "Chromium is missing and cannot be installed here", [])])
def test_ci_sees_to_chromium(tmp_path: Path, user: int, status: int, message: str, tried: list[str]) -> None:
    done = run_ci(tmp_path, id=f"echo {user}", apt_get=f'echo "apt-get $@" >&2; exit {status}')
    assert done.returncode == 0 and "3 passed" in done.stdout and message in done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("apt-get")]
    assert len(said) == len(tried) and all(map(str.startswith, said, tried))


PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{0}</title></head><body><main><h1>{0}
<a class="headerlink" href="#">#</a></h1><a href="second.html">a page</a> <a href="https://example.org/">the web</a>
<details><summary>Solution</summary>folded away</details><h2>A section</h2></main></body></html>"""


def test_pdf(tmp_path: Path) -> None:
    need_chromium()
    for name, title in (("first", "The first & best"), ("second", "The second")):
        (tmp_path / f"{name}.html").write_text(PAGE.format(title.replace("&", "&amp;")), encoding="utf-8")
    make_pdf(tmp_path, ["first", "second"], tmp_path / "book.pdf", "A book", "Somebody")
    pdf = PdfReader(tmp_path / "book.pdf")
    assert [item.title for item in pdf.outline if not isinstance(item, list)] == ["The first & best", "The second"]
    assert len(pdf.pages) == 2 and all("folded away" in sheet.extract_text() for sheet in pdf.pages)
    links = [note.get_object()["/A"]["/URI"] for sheet in pdf.pages for note in sheet["/Annots"]]
    assert links == ["https://example.org/"] * 2 and pdf.metadata.title == "A book"
    assert b"file:" not in (tmp_path / "book.pdf").read_bytes()


HERE = read_repository()
CLONE = Repository("https://github.com/OWNER/adlib", "v0.1.0")
NEW = Repository("https://github.com/new-owner/defects-book", "v0.2.0")
RAW = "https://raw.githubusercontent.com/new-owner/defects-book/v0.2.0"


def test_version_is_the_same_everywhere() -> None:
    version = PROJECT["version"]
    assert HERE.tag == f"v{version}" and adlib.__version__ == version
    for file in SETTINGS["tool"]["bumpversion"]["files"]:  # what a release replaces
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
    ("_config.yml", "use_repository_button: true"), ("_config.yml", "colab_url: https://colab.research.google.com")])
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
    ("https://github.com/a/b/", "v1"), ("https://github.com/a/b.git", "v1"), ("https://github.com/a/b", "main")])
def test_unusable_addresses_are_refused(tmp_path: Path, url: str, tag: str) -> None:
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: {url}\n  branch: {tag}\n")
    with pytest.raises(ValueError, match=f"_config.yml, repository: expected .* it has {url} and {tag}"):
        read_repository(tmp_path)
