"""The language of the project: no private idiom, no long sentence, a short README, unique class names."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [path for part in ("src", "exam/src") for path in sorted((ROOT / part).rglob("*.py"))]
SCRIPTS = [path for part in ("benchmarks", "examples") for path in sorted((ROOT / part).glob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAX_SENTENCE_WORDS = 30

BANNED = re.compile(
    r"\b(told|tells? (?:of|what|how|whether|it|them|nothing)|no telling|cannot tell|heed(?:s|ed|ing)?|sitters?|"
    r"sits? the exam|(?:is|are) due|for eyes only|whoever|nobody (?:gives|had)|beside the|by the worst of|of its own|"
    r"as it is|held against|in full view|goes without|foretells?|foretold|foresees?|(?:says|said) so|"
    r"what (?:is|was|were|are) (?:said|asked|seen|meant|told|learned|there|not))\b",
    re.IGNORECASE,
)
"""Idiom that engineers do not search for. Docs and messages use the standard terms of the field."""
KEPT = {
    "src/worldline/engines/language/prompt.py": 10,  # the text that models are sent, which recorded transcripts hash
    "exam/src/worldline_exam/exam_tests/ood_detection.py": 1,  # the key of a stored result
}
"""Places per file that must stay word for word."""


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and texts: paragraphs of a page without code and tables, strings with a space of a Python file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        fenced = False
        for number, line in enumerate(text.splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            if not fenced and not line.startswith(("    ", "|", "```")):
                yield number, line
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def banned(texts: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(number, found.group(0)) for number, text in texts for found in BANNED.finditer(text)]


def long_sentences(texts: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    sentences = ((n, one) for n, text in texts for one in re.split(r"(?<=[.;:!?])\s+|\n\s*\n", text))
    return [(number, one) for number, one in sentences if len(one.split()) > MAX_SENTENCE_WORDS]


@pytest.mark.parametrize(
    "text", ["what the world is told", "It heeds no actions.", "a value is due here", "whoever asks"]
)
def test_idiom_is_found(text: str) -> None:
    assert banned(iter([(1, text)]))


def test_a_long_sentence_is_found() -> None:
    words = " ".join(["word"] * MAX_SENTENCE_WORDS)
    assert long_sentences(iter([(1, f"{words} more.")]))
    assert not long_sentences(iter([(1, f"{words}. {words}.")]))


@pytest.mark.parametrize("path", [*CODE, *SCRIPTS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_idiom_and_no_long_sentence(path: Path) -> None:
    found = banned(prose(path))
    assert len(found) <= KEPT.get(path.relative_to(ROOT).as_posix(), 0), found
    assert long_sentences(prose(path)) == []


def test_every_class_name_is_unique() -> None:
    names = Counter(
        node.name for path in CODE for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, number in names.items() if number > 1] == []
