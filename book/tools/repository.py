"""Write the repository's address and release tag wherever they occur.

    python book/tools/repository.py                                        # after an edit of _config.yml
    python book/tools/repository.py https://github.com/someone/adlib v0.2.0  # sets _config.yml too

`_config.yml` (`repository: url, branch`) is the one place; badges, set-up cells, links, the pictures of
the notebooks and the package's metadata follow it. What stood there before is read from `pyproject.toml`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = re.compile(r"https://github\.com/[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
COLAB = "https://colab.research.google.com"
RAW = "https://raw.githubusercontent.com"
# A picture of book/_static/ that a notebook shows, by relative path or at its public address. A quotation
# mark has a backslash before it in the text of a notebook's file.
PICTURE = re.compile(rf"""(\]\(|src=\\?["'])(?:\.\./|{re.escape(RAW)}/[^/\s]+/[^/\s]+/[^/\s]+/)"""
                     r"""(book/_static/[A-Za-z0-9._/-]+)(?:\?sanitize=true)?(?=[)\s\\"'])""")


class Repository(NamedTuple):
    """Where the project is published: `url` as https://github.com/<owner>/<name>, and the release `tag`."""

    url: str
    tag: str

    @property
    def slug(self) -> str:
        """<owner>/<name>."""
        return self.url.removeprefix("https://github.com/")

    @property
    def published(self) -> bool:
        """Whether there is an owner; the word OWNER stands in until there is one."""
        return not self.slug.startswith("OWNER/")


def checked(url: str, tag: str) -> Repository:
    """The address without a trailing slash or `.git`. ValueError names a part that cannot be one."""
    url = url.rstrip("/").removesuffix(".git")
    if not ADDRESS.fullmatch(url):
        raise ValueError(f"repository address '{url}': expected https://github.com/<owner>/<name>")
    if not TAG.fullmatch(tag):
        raise ValueError(f"release tag '{tag}': expected letters, digits, dots, dashes, as in v0.1.0")
    return Repository(url, tag)


def read_repository(root: Path = ROOT) -> Repository:
    """What `_config.yml` under `root` says. ValueError where it says nothing usable."""
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")).get("repository") or {}
    return checked(str(settings.get("url", "")), str(settings.get("branch", "")))


def setup_cell(repository: Repository) -> str:
    """The source of the notebooks' set-up cell. It installs adlib alone and keeps the reader's torch."""
    return (
        "try:\n"
        "    import adlib\n"
        "except ModuleNotFoundError:\n"
        f'    %pip install -q "adlib @ git+{repository.url}@{repository.tag}"\n'
        "    import adlib"
    )


def badge(repository: Repository, notebook: str) -> str:
    """The Markdown of the Colab badge of `notebook`, a file name such as 02_patchcore.ipynb."""
    link = f"{COLAB}/github/{repository.slug}/blob/{repository.tag}/notebooks/{notebook}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})"


def picture(repository: Repository, path: str) -> str:
    """The address by which a notebook shows the picture `path`, such as book/_static/coreset-idea.svg.

    Colab opens a notebook without the files beside it, and shows neither attachments nor SVG data URIs.
    So the address is public, at the release tag; `sanitize` makes GitHub serve an SVG as a picture.
    Before there is an owner nothing is public, and the relative path is what works in a clone.
    """
    if not repository.published:
        return f"../{path}"
    return f"{RAW}/{repository.slug}/{repository.tag}/{path}{'?sanitize=true' if path.endswith('.svg') else ''}"


def with_pictures(text: str, repository: Repository) -> str:
    """The text of a notebook's file with each picture of book/_static/ at the address for `repository`."""
    return PICTURE.sub(lambda m: f"{m[1]}{picture(repository, m[2])}", text)


def with_local_pictures(source: str) -> str:
    """A notebook's Markdown with relative paths instead, for a reader without a network."""
    return PICTURE.sub(r"\1../\2", source)


def picture_problems(text: str, repository: Repository, root: Path) -> list[str]:
    """What is wrong with the pictures of a notebook's file; empty where a reader on Colab sees them all."""
    problems = []
    if with_pictures(text, repository) != text:
        problems.append("a picture is not at the address for _config.yml: run book/tools/repository.py")
    paths = sorted({path for _, path in PICTURE.findall(text)})
    problems += [f"shows {path}, which is not there" for path in paths if not (root / path).is_file()]
    for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text):
        if not target.startswith("https://") and not PICTURE.search(f"]({target})"):
            problems.append(f"shows {target}, which Colab cannot: expected a file of book/_static/")
    return problems


def files_with_addresses(root: Path) -> list[Path]:
    """The files that may name the repository, `_config.yml` left out."""
    patterns = ("README.md", "pyproject.toml", "environment.yml", "notebooks/*.ipynb", "book/**/*.md",
                "adlib/**/*.py", "adlib/**/*.md")
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def rewritten(text: str, old_url: str, new: Repository) -> str:
    """`text` with the address `old_url`, and the tag that follows it, replaced by those of `new`.

    The tag stands after `@`, `/blob/`, `/tree/`, `/raw/`, `/releases/tag/`, or, on
    raw.githubusercontent.com, after the name. An address that only begins like `old_url` is left alone.
    """
    slug = re.escape(old_url.removeprefix("https://github.com/"))
    end = r"(?![A-Za-z0-9_-]|\.(?!git\b)[A-Za-z0-9])"  # "adlib" must not match in "adlib-extra" or "adlib.js"
    tag = r"(@|/blob/|/tree/|/raw/|/releases/tag/)[A-Za-z0-9][A-Za-z0-9._-]*(?<![.])"
    text = re.sub(rf"(github(?:\.com)?/){slug}{end}((?:\.git)?){tag}",
                  lambda m: f"{m[1]}{new.slug}{m[2]}{m[3]}{new.tag}", text)
    text = re.sub(rf"(raw\.githubusercontent\.com/){slug}/[A-Za-z0-9][A-Za-z0-9._-]*",
                  lambda m: f"{m[1]}{new.slug}/{new.tag}", text)
    return re.sub(rf"(github(?:\.com)?/){slug}{end}", lambda m: f"{m[1]}{new.slug}", text)


def previous_url(root: Path) -> str:
    """The address that was written last, read from `pyproject.toml`."""
    match = re.search(r'^Repository = "([^"]+)"', (root / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    if match is None:
        raise ValueError('pyproject.toml: expected a line Repository = "https://github.com/<owner>/<name>"')
    return match[1]


def disagreements(root: Path = ROOT) -> list[str]:
    """One sentence for each file that does not say what `_config.yml` says; empty where all agree."""
    repository, problems = read_repository(root), []
    if previous_url(root) != repository.url:
        problems.append(f"pyproject.toml: Repository is {previous_url(root)}, _config.yml says {repository.url}")
    for path in files_with_addresses(root):
        name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        if rewritten(text, repository.url, repository) != text:
            problems.append(f"{name}: another release tag than {repository.tag}")
        # Every install line and every Colab link is ours, whatever address it has.
        for slug in re.findall(r"git\+https://github\.com/([^/\s\"\\]+/[^@\s\"\\]+)@", text):
            if slug.removesuffix(".git") != repository.slug:
                problems.append(f"{name}: installs from {slug}, _config.yml says {repository.slug}")
        for slug in re.findall(r"colab\.research\.google\.com/github/([^/\s\"\\]+/[^/\s\"\\]+)", text):
            if slug != repository.slug:
                problems.append(f"{name}: Colab link to {slug}, _config.yml says {repository.slug}")
        if path.suffix == ".ipynb":
            problems += [f"{name}: {problem}" for problem in picture_problems(text, repository, root)]
    return problems


def set_repository(root: Path, new: Repository) -> list[Path]:
    """Write `new` into `_config.yml` and everything that follows it. The changed files are returned."""
    old_url, changed = previous_url(root), []
    config = root / "_config.yml"
    text = config.read_text(encoding="utf-8")
    text = re.sub(r"^(repository:\n  url: ).*\n(  branch: ).*$",
                  lambda m: f"{m[1]}{new.url}\n{m[2]}{new.tag}", text, count=1, flags=re.M)
    contents = {config: text}
    for path in files_with_addresses(root):
        text = path.read_text(encoding="utf-8")
        # Twice: what already has the new address (a file edited by hand) may still have the old tag.
        text = rewritten(rewritten(text, old_url, new), new.url, new)
        contents[path] = with_pictures(text, new) if path.suffix == ".ipynb" else text
    for path, text in contents.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    if read_repository(root) != new:
        raise ValueError("_config.yml: expected 'repository:' followed by '  url: …' and '  branch: …'")
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the repository's address and release tag everywhere.")
    parser.add_argument("url", nargs="?", help="https://github.com/<owner>/<name>; default: that of _config.yml")
    parser.add_argument("tag", nargs="?", help="the release tag, such as v0.1.0; default: that of _config.yml")
    given = parser.parse_args()
    try:
        now = read_repository()
        changed = set_repository(ROOT, checked(given.url or now.url, given.tag or now.tag))
    except ValueError as error:
        sys.exit(str(error))
    for path in changed:
        print("rewrote", path.relative_to(ROOT))
    print(f"{len(changed)} files changed.")
    if any(path.suffix == ".ipynb" for path in changed):
        print("The notebooks' stamps are stale now: run make notebooks.")
    problems = disagreements()
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
