# SPDX-License-Identifier: Apache-2.0
"""The documented keys of a pair are those that the code reads and writes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import regplugins
from regplugins.transforms.keys import Pair

FOLDERS = ("transforms", "inferers", "engines", "report")


def keys_of_pairs(source: str) -> Iterator[str]:
    """Keys ``k`` of ``pair["k"]``, ``pair.get("k")``, ``"k" in pair`` and ``pair |= {"k": ...}``."""

    def is_pair(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == "pair"

    for node in ast.walk(ast.parse(source)):
        found: list[ast.AST | None] = []
        if isinstance(node, ast.Subscript) and is_pair(node.value):
            found = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_pair(node.func.value):
            found = list(node.args[:1])
        elif isinstance(node, ast.Compare) and is_pair(node.comparators[0]):
            found = [node.left]
        elif isinstance(node, ast.AugAssign) and is_pair(node.target) and isinstance(node.value, ast.Dict):
            found = list(node.value.keys)
        yield from (key.value for key in found if isinstance(key, ast.Constant) and isinstance(key.value, str))


def test_every_key_is_documented_and_every_documented_key_is_used():
    root = Path(regplugins.__file__).parent
    sources = [path.read_text(encoding="utf-8") for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    used = {key for source in sources for key in keys_of_pairs(source)}
    assert used - Pair.__annotations__.keys() == set()
    text = "".join(source for source in sources if "class Pair" not in source)
    assert {key for key in Pair.__annotations__ if f'"{key}"' not in text} == set()
