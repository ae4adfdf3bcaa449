# SPDX-License-Identifier: Apache-2.0
"""The code is in American spelling, and its docstrings state; ``make lint`` runs the tools of pyproject.toml."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for folder in ("regplugins", "tests", "docs") for path in (ROOT / folder).rglob("*.py")]
CONFIGS = [
    *ROOT.glob("bundles/*/configs/*.json"),
    *ROOT.glob("bundles/*/bundle.json"),
    *ROOT.rglob("regplugins/**/*.json"),
]
_STEMS = (
    *("discret", "emphas", "general", "initial", "local", "maxim", "minim", "normal", "optim", "organ", "parametr"),
    *("recogn", "regular", "standard", "summar", "synchron", "synthes", "util", "visual"),
)
BRITISH = re.compile(
    rf"(?i:analyse|behaviour|catalogue|centre|colour|favour|grey|labelled|learnt|licence|metre|neighbour|tumour)"
    rf"|(?i:{'|'.join(_STEMS)})is(e|ing|ation)"
)
QUESTION = re.compile(r"(What|How|Where|Which|Whether|Of)\b")


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def identifiers(path: Path) -> Iterator[str]:
    for node in nodes(path):
        names = (getattr(node, name, None) for name in ("name", "id", "attr", "arg"))
        yield from (name for name in names if isinstance(name, str))


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from keys(part)


def test_names_are_in_american_spelling() -> None:
    names = {name for path in SOURCES for name in identifiers(path)}
    names |= {key for path in CONFIGS for key in keys(json.loads(path.read_text(encoding="utf-8")))}
    names |= {path.stem for path in [*SOURCES, *CONFIGS]}
    assert sorted(name for name in names if BRITISH.search(name)) == []


def test_docstrings_state_what_a_thing_is_or_does() -> None:
    questions = []
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                questions += [f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"] if QUESTION.match(text) else []
    assert questions == []
