"""Build, licences and configuration: what must agree with what, and the tools that keep it so."""

from __future__ import annotations

import importlib.util
import json
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
from packaging.version import Version

import repository
from repository import (
    ROOT,
    Repository,
    badge,
    checked,
    disagreements,
    picture,
    read_repository,
    rewritten,
    setup_cell,
    with_local_pictures,
    with_pictures,
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> dict[str, Requirement]:
    """All requirements of pyproject.toml, those of its extras too, by normal name."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


# ------------------------------------------------------------------ packages


def test_conda_environment_is_that_of_pyproject() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (by_pip,) = (e["pip"] for e in entries if not isinstance(e, str))
    assert by_pip.pop() == "-e ."
    names = [*by_pip, *(e for e in entries if isinstance(e, str))]
    conda = {r.name: r.specifier for r in map(Requirement, names)}
    assert str(conda.pop("python")) == PROJECT["requires-python"]
    assert str(conda.pop("pip")) == ""
    conda["torch"] = conda.pop("pytorch")
    assert conda == {name: r.specifier for name, r in requirements().items()}


def test_lower_bounds_only() -> None:
    """An exact pin would replace the reader's torch or numpy on Colab."""
    for name, requirement in requirements().items():
        allowed = {">=", "<"} if name == "jupyter-book" else {">="}  # jupyter-book 2 is another program
        assert {s.operator for s in requirement.specifier} <= allowed and len(requirement.specifier) >= 1, name


def test_constraints_are_exact_complete_and_within_bounds() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert all([s.operator for s in r.specifier] == ["=="] for r in locked)
    for name, wanted in requirements().items():
        versions = [next(iter(r.specifier)).version for r in locked if canonicalize_name(r.name) == name]
        assert versions, f"{name} is not in constraints.txt: run book/tools/lock.sh"
        assert all(wanted.specifier.contains(Version(v)) for v in versions), name
    assert "torch==2.15.0" in text and "torchvision==0.29.2" in text


def test_constraints_name_no_place() -> None:
    """Neither a package server nor a path of the machine that made the file."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|@|--(index|find|extra)|(^|[\s'\"])/", text, re.M)


def test_every_imported_package_is_required() -> None:
    import_names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    found: set[str] = set()
    for path in (ROOT / "adlib").rglob("*.py"):
        found |= set(re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", path.read_text(encoding="utf-8"), re.M))
    words = found - set(sys.stdlib_module_names) - {"adlib", "IPython"}  # IPython: only where a notebook runs
    # A docstring's line may begin with "from" too; what cannot be found is no package.
    needed = {import_names.get(word, word) for word in words if importlib.util.find_spec(word)}
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert needed <= declared, needed - declared


def test_version_is_said_once() -> None:
    assert read_repository().tag == f"v{PROJECT['version']}"


# ------------------------------------------------------------------ licences


@pytest.mark.parametrize(("name", "words"), [
    ("LICENSE", ["Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"]),
    ("LICENSE-text", ["Attribution 4.0 International", "Section 8 -- Interpretation."]),
    ("book/_static/mathjax/LICENSE", ["Apache License"]),
])
def test_licence_texts_are_whole(name: str, words: list[str]) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert all(word in text for word in words) and len(text) > 10_000


# ------------------------------------------------------------------ one address


def test_every_address_agrees() -> None:
    assert disagreements() == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small copy of everything that names the repository, with one notebook."""
    for name in ("_config.yml", "pyproject.toml", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    here = read_repository()
    (tmp_path / "README.md").write_text(
        f"{badge(here, '02_a.ipynb')}\n\nSource: <{here.url}>. Clone {here.url}.git, "
        f"read {here.url}/blob/{here.tag}/x.md, pip install git+{here.url}@{here.tag} or [raw]"
        f"(https://raw.githubusercontent.com/{here.slug}/{here.tag}/a.png). Not ours: "
        f"https://github.com/amazon-science/patchcore-inspection, {here.url}-extra, {here.url}.js.\n"
    )
    (tmp_path / "book" / "index.md").write_text(f"See [the code]({here.url}/tree/{here.tag}/adlib).\n")
    (tmp_path / "book" / "_static").mkdir()
    (tmp_path / "book" / "_static" / "a.svg").write_text("<svg/>")
    address = picture(here, "book/_static/a.svg")
    shown = f'![two (2)]({address}) <img src="{address}" width="9">'
    cells = [new_markdown_cell(f"{badge(here, '02_a.ipynb')}\n\n{shown}"), new_code_cell(setup_cell(here))]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "02_a.ipynb")
    assert disagreements(tmp_path) == []
    return tmp_path


NEW = Repository("https://github.com/new-owner/defects-book", "v0.2.0")


def test_set_repository_rewrites_everything(tree: Path) -> None:
    old = read_repository(tree)
    changed = {path.relative_to(tree).as_posix() for path in repository.set_repository(tree, NEW)}
    assert changed == {"_config.yml", "pyproject.toml", "README.md", "book/index.md", "notebooks/02_a.ipynb"}
    assert read_repository(tree) == NEW and disagreements(tree) == []
    cells = nbformat.read(tree / "notebooks" / "02_a.ipynb", as_version=4).cells
    shown = "https://raw.githubusercontent.com/new-owner/defects-book/v0.2.0/book/_static/a.svg?sanitize=true"
    assert cells[0].source == f'{badge(NEW, "02_a.ipynb")}\n\n![two (2)]({shown}) <img src="{shown}" width="9">'
    assert cells[1].source == setup_cell(NEW)
    text = (tree / "README.md").read_text()
    assert "https://github.com/amazon-science/patchcore-inspection" in text
    assert f"{old.url}-extra, {old.url}.js" in text
    for line in (f"<{NEW.url}>", f"{NEW.url}.git", f"{NEW.url}/blob/v0.2.0/x.md", f"git+{NEW.url}@v0.2.0",
                 f"raw.githubusercontent.com/{NEW.slug}/v0.2.0/a.png"):
        assert line in text
    assert repository.set_repository(tree, NEW) == []
    repository.set_repository(tree, old)
    assert disagreements(tree) == [] and read_repository(tree) == old


def test_set_repository_after_an_edit_by_hand(tree: Path) -> None:
    config = tree / "_config.yml"
    old = read_repository(tree)
    config.write_text(config.read_text().replace(old.url, NEW.url).replace(f"branch: {old.tag}", f"branch: {NEW.tag}"))
    assert disagreements(tree)
    repository.set_repository(tree, read_repository(tree))
    assert read_repository(tree) == NEW and disagreements(tree) == []


@pytest.mark.parametrize(("name", "old", "new"), [
    ("notebooks/02_a.ipynb", "colab.research.google.com/github/", "colab.research.google.com/github/x"),
    ("notebooks/02_a.ipynb", "git+https://github.com/", "git+https://github.com/x"),
    ("notebooks/02_a.ipynb", "@v", "@v9"),
    ("notebooks/02_a.ipynb", "](../book/_static/", "](https://raw.githubusercontent.com/x/y/v9/book/_static/"),
    ("notebooks/02_a.ipynb", "](../book/_static/a.svg", "](../book/_static/b.svg"),
    ("notebooks/02_a.ipynb", "](../book/_static/a.svg", "](attachment:a.svg"),
    ("notebooks/02_a.ipynb", "](../book/_static/a.svg", "](../pictures/a.svg"),
    ("README.md", "/blob/v", "/blob/v9"),
    ("book/index.md", "/tree/v", "/tree/v9"),
    ("pyproject.toml", 'Repository = "https://github.com/', 'Repository = "https://github.com/x'),
])
def test_each_disagreement_is_seen(tree: Path, name: str, old: str, new: str) -> None:
    text = (tree / name).read_text()
    assert old in text
    (tree / name).write_text(text.replace(old, new))
    assert any(problem.startswith(name) for problem in disagreements(tree))


@pytest.mark.parametrize(("url", "tag"), [
    ("github.com/a/b", "v1"), ("https://example.org/a/b", "v1"), ("https://github.com/a", "v1"),
    ("https://github.com/a/b", ""), ("https://github.com/a/b", "v 1"), ('https://github.com/a/b"', "v1"),
])
def test_unusable_addresses_are_refused(url: str, tag: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        checked(url, tag)


def test_address_is_tidied() -> None:
    assert checked("https://github.com/a/b.git", "v1") == checked("https://github.com/a/b/", "v1")


OWNERLESS = Repository("https://github.com/OWNER/adlib", "v0.1.0")


def test_pictures_are_public_where_there_is_an_owner() -> None:
    """Relative before: a stranger may own the account that the stand-in names."""
    raw = "https://raw.githubusercontent.com/new-owner/defects-book/v0.2.0/book/_static"
    assert picture(NEW, "book/_static/a.svg") == f"{raw}/a.svg?sanitize=true"
    assert picture(NEW, "book/_static/b.jpg") == f"{raw}/b.jpg"
    assert picture(OWNERLESS, "book/_static/a.svg") == "../book/_static/a.svg"


def test_pictures_are_found_in_any_form() -> None:
    relative = "![a](../book/_static/a.svg) ![b](../book/_static/b.jpg 'b') and `../book/_static/c.svg`, <../x.svg>"
    public = with_pictures(relative, NEW)
    assert f"]({picture(NEW, 'book/_static/a.svg')})" in public
    assert f"]({picture(NEW, 'book/_static/b.jpg')} 'b')" in public
    assert public.endswith("and `../book/_static/c.svg`, <../x.svg>") and with_pictures(public, NEW) == public
    assert with_pictures(public, OWNERLESS) == relative == with_local_pictures(public) == with_local_pictures(relative)
    in_json = json.dumps('<img src="../book/_static/a.svg">')
    assert json.loads(with_pictures(in_json, NEW)) == f'<img src="{picture(NEW, "book/_static/a.svg")}">'


def test_pictures_stand_alone() -> None:
    """As `<img>` an SVG loads nothing, and GitHub's cleaning takes styles and scripts out; none has any."""
    pictures = sorted((ROOT / "book" / "_static").glob("*.svg"))
    assert pictures
    for path in pictures:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"<(?:style|script|foreignObject|image|use)\b|\s(?:style|class|(?:\w+:)?href|on\w+)=", text)
        assert not found, (path.name, found)


def test_rewriting_knows_the_end_of_a_sentence() -> None:
    assert rewritten("at https://github.com/a/b.", "https://github.com/a/b", NEW) == f"at {NEW.url}."


# ------------------------------------------------------------------ the commands


def test_make_help_lists_every_target() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    assert {"book", "test", "test-all", "notebooks", "lint", "help", "clean"} <= set(targets)
    assert all(f"make {target}" in text for target in targets)


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    old = tmp_path / "python3.9"
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "book", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "Python 3.11 or newer" in done.stderr and "3.9" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("ruff", "tests", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_make_test_hides_no_failure(tmp_path: Path, ruff: int, tests: int, status: int) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "test.sh", tmp_path / "scripts")
    for name, code in (("ruff", ruff), ("python", tests)):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} \"$@\"\nexit {code}\n")
        program.chmod(0o755)
    done = subprocess.run([str(tmp_path / "scripts" / "test.sh"), "--all-notebooks"], capture_output=True, text=True)
    assert done.returncode == status
    assert "ruff check ." in done.stdout and "--nbval-lax" in done.stdout and "--all-notebooks" in done.stdout
