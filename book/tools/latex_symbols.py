r"""The symbols of a piece of LaTeX, as a small reader finds them. Used by book/tools/notation.py.

A symbol is a letter, a Greek letter, a letter in another font, or an upright name, with what belongs to
its identity: an accent, a star, a plus or a minus, a prime, a label in upright letters. Powers and running
indices do not: `x_i^2` is the symbol x, and the index i is a symbol of its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

GREEK = set("alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi varpi rho "
            "varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon "
            "Phi Psi Omega ell".split())
ACCENTS = {"hat": "hat", "widehat": "hat", "bar": "bar", "overline": "bar", "tilde": "tilde", "widetilde": "tilde",
           "vec": "vec", "dot": "dot"}
FONTS = {"mathcal", "mathbb", "mathbf", "boldsymbol", "mathfrak", "mathsf"}
UPRIGHT = {"mathrm", "operatorname", "operatorname*", "text", "textrm"}
# Upright words that are functions of all mathematics, and the differential d.
FUNCTIONS = {"d", "argmin", "argmax", "diag", "mod"}
# Macros with an argument that holds no symbol.
SKIPPED = {"tag", "begin", "end", "label", "hspace", "phantom", "color"}
TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|[A-Za-z]|\d+|\s+|.", re.S)
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*\s*$|(`+)(?!`).*?(?<!`)\2(?!`)", re.S | re.M)
# What stands between these two comments is in the symbols of another text.
QUOTED = re.compile(r"<!-- other-notation -->.*?(<!-- /other-notation -->|\Z)", re.S)
FORMULA = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<![\\$])\$(?!\s)([^$]+?)(?<![\s\\])\$(?!\d)", re.S)


class Symbol(NamedTuple):
    """A symbol in a formula: `key` names it in one way only, `written` is what stands in the text."""

    key: str
    written: str


def mathematics(markdown: str) -> list[str]:
    """The formulas of a Markdown text, $…$ and $$…$$, without those in code or quoted."""
    return [display or inline for display, inline in FORMULA.findall(CODE.sub("", QUOTED.sub("", markdown)))]


class _Reader:
    """Goes through the tokens of one formula and collects its symbols."""

    def __init__(self, formula: str, known: set[str]) -> None:
        self.tokens = [token for token in TOKEN.findall(formula) if not token.isspace()]
        self.at, self.known, self.found = 0, known, []

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def group(self) -> list[str]:
        """The tokens of the next argument, a single token or {…}, without its braces."""
        if self.peek() != "{":
            token = self.take()
            # An argument such as \text{…} or \mathcal{M} is one token with an argument of its own.
            return [token, "{", *self.group(), "}"] if token[1:] in UPRIGHT | FONTS | set(ACCENTS) else [token]
        depth, out = 0, []
        while self.at < len(self.tokens):
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                break
            out.append(token)
        return out[1:]

    def read(self) -> list[Symbol]:
        while self.at < len(self.tokens):
            start = self.at
            base = self.base()
            if base:
                self.with_scripts(base, start)
        return self.found

    def base(self) -> str:
        """The next symbol without its scripts; "" where something else stands, which is then passed over."""
        token = self.take()
        name = token[1:]
        if len(token) == 1 and token.isalpha():
            return token
        if not token.startswith("\\"):
            return ""
        if name in GREEK:
            return token
        if name in FONTS:
            return f"{token}{{{''.join(self.group())}}}"
        if name in UPRIGHT:
            return upright(name, self.group())
        if name in ACCENTS:
            inner = self.group()
            plain = _Reader("", set())
            plain.tokens = inner
            accented = plain.base() or "".join(inner)
            return f"\\{ACCENTS[name]}{{{accented}}}" if accented else ""
        if name in SKIPPED:
            self.group()
        elif token == "\\\\" and self.peek() == "[":
            while self.take() not in ("]", ""):
                pass
        return ""

    def with_scripts(self, base: str, start: int) -> None:
        above, below, contents = "", None, []
        while self.peek() in ("^", "_", "'"):
            mark = self.take()
            if mark == "'":
                above += "'"
                continue
            inner = self.group()
            if mark == "_":
                below = inner
            elif label(inner):
                above += "^" + label(inner)
            else:
                contents.append(inner)
        key = base + above
        if below is not None:
            named = f"{key}_{label(below) or ''.join(below)}"
            if named in self.known or label(below):
                key = named
            else:
                contents.append(below)
        self.found.append(Symbol(key, "".join(spaced(self.tokens[start:self.at]))))
        for inner in contents:
            self.found += symbols(" ".join(inner), self.known)


def upright(macro: str, inner: list[str]) -> str:
    r"""The name of a quantity in upright letters; "" for a function of all mathematics and for prose in \text."""
    word = "".join(token for token in inner if not token.startswith("\\") or token == "\\_")
    if word in FUNCTIONS or (macro in ("text", "textrm") and not any(letter.isupper() for letter in word)):
        return ""
    return f"[{word}]" if word else ""


def label(inner: list[str]) -> str:
    """What a script adds to a symbol's identity: a star, a sign, a prime, an upright word; "" for anything else."""
    if inner and inner[0][1:] in UPRIGHT and inner.count("}") == 1 and inner[-1] == "}":
        return "".join(inner[2:-1])
    if inner in (["*"], ["+"], ["-"], ["\\pm"], ["\\max"]):
        return inner[0]
    if inner and set(inner) <= {"\\prime", "'"}:
        return "'" * len(inner)
    # A word in italics, as in L_{SPD}: two letters or more that begin with a capital.
    word = "".join(inner)
    return word if re.fullmatch(r"[A-Z][A-Za-z]+", word) else ""


def spaced(tokens: list[str]) -> list[str]:
    """Tokens with a blank where a macro would run into the letter after it."""
    return [token + " " if re.fullmatch(r"\\[A-Za-z]+", token) and after[:1].isalpha() else token
            for token, after in zip(tokens, [*tokens[1:], ""], strict=True)]


def symbols(formula: str, known: set[str] = frozenset()) -> list[Symbol]:
    """The symbols of a formula in their order, those of its indices too.

    Where the whole, as \\sigma_c, is in `known`, it is one symbol; otherwise \\sigma, with c as its running index.
    """
    return _Reader(formula, known).read()


def keys(formula: str) -> list[str]:
    """The symbols that a formula of the table's first column names: each is taken whole, with its index."""
    found = []
    for part in re.split(r",\s+", formula):
        whole = _Reader(part, _Everything())
        found += [symbol.key for symbol in whole.read()[:1]]
    return found


class _Everything(set):
    """A set that holds every symbol."""

    def __contains__(self, key: object) -> bool:
        return True
