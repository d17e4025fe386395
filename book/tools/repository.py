"""The repository's address and release tag, as `_config.yml` says, and what of a notebook depends on them.

`python book/tools/repository.py` puts them into all notebooks, after an edit of _config.yml. The owner OWNER stands in
until there is a public address. Until then a notebook installs and shows the clone it lies in, and has no Colab badge.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
COLAB, RAW = "https://colab.research.google.com", "https://raw.githubusercontent.com"
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n*", re.M)
# A picture of book/_static/ that a notebook shows, by relative path or at its public address.
PICTURE = re.compile(rf"""(?<=[("'])(?:\.\.|{RAW}(?:/[^/\s]+){{3}})/(book/_static/[\w./-]+)(?:\?sanitize=true)?""")


class Repository(NamedTuple):
    """Where the project is published, and which release; `files` is where a notebook finds its files."""

    url: str  # https://github.com/<owner>/<name>
    tag: str
    slug = property(lambda self: self.url.removeprefix("https://github.com/"))
    published = property(lambda self: not self.slug.startswith("OWNER/"))
    files = property(lambda self: f"{RAW}/{self.slug}/{self.tag}" if self.published else "..")


def read_repository(root: Path = ROOT) -> Repository:
    """What `_config.yml` under `root` says. ValueError where it says nothing usable."""
    url, tag = (str(yaml.safe_load((root / "_config.yml").read_text())["repository"][key]) for key in ("url", "branch"))
    if not re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+(?<!\.git)", url) or not re.fullmatch(r"v\d[\w.]*", tag):
        raise ValueError("_config.yml, repository: expected url: https://github.com/<owner>/<name> and branch: the "
                         f"release tag, such as v0.1.0; it has {url} and {tag}")
    return Repository(url, tag)


def setup_cell(repository: Repository) -> str:
    """The source of the notebooks' set-up cell. It installs adlib alone and keeps the reader's torch."""
    what = f'"adlib @ git+{repository.url}@{repository.tag}"' if repository.published else ".."
    return f"try:\n    import adlib\nexcept ModuleNotFoundError:\n    %pip install -q {what}\n    import adlib"


def badge(repository: Repository, name: str) -> str:
    """The Markdown of the Colab badge of the notebook `name`, such as 02_patchcore.ipynb."""
    link = f"{COLAB}/github/{repository.slug}/blob/{repository.tag}/notebooks/{name}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})"


def with_local_pictures(source: str) -> str:
    """A notebook's Markdown with its pictures at relative paths, for a reader without a network."""
    return PICTURE.sub(r"../\1", source)


def apply(notebook: nbformat.NotebookNode, name: str, repository: Repository) -> None:
    """Write the address into the notebook `name`, in place: set-up cell, badge, pictures, a line REPOSITORY = "…".

    Colab opens a notebook without the files beside it, and shows neither attachments nor SVG data URIs. So pictures
    get a public address, where `sanitize` makes GitHub serve an SVG as one. ValueError without one cell tagged `setup`.
    """
    setup = [cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", [])]
    if len(setup) != 1:
        raise ValueError(f"{name}: expected the tag 'setup' on one code cell, found it on {len(setup)}")
    setup[0].source = setup_cell(repository)
    picture = rf"{repository.files}/\1" + "?sanitize=true" * repository.published
    address = f'REPOSITORY = "{repository.files if repository.published else "file:.."}"'  # for urlopen
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = PICTURE.sub(picture, BADGE.sub("", cell.source))
        else:
            cell.source = re.sub(r'^REPOSITORY = ".*"', address, cell.source, flags=re.M)
    if repository.published:
        title, _, rest = notebook.cells[0].source.partition("\n")
        notebook.cells[0].source = f"{title}\n\n{badge(repository, name)}\n{rest}"


if __name__ == "__main__":
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        read = nbformat.read(path, as_version=4)
        apply(read, path.name, read_repository())
        nbformat.write(read, path)
