"""The messages that the pages quote are those that the kit prints."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OTHERS = {"CUDA out of memory", "No space left on device",  # PyTorch's, the system's,
          "Kernel didn't respond in … seconds"}  # and jupyter_client's
TABLES = [(ROOT / page).read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
          for page, title in (("outputs/README.md", "Errors"), ("params/data.md", "Messages"))]
ERRORS, MESSAGES = (re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE) for table in TABLES)


@cache
def sentences() -> str:
    """Return all strings of the package's code, with … for each value that is filled in."""
    texts = []
    for file in sorted((ROOT / "dgs_utils").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_there_are_ten():
    assert len(ERRORS) == 10
    assert set(ERRORS) >= OTHERS
    assert len(MESSAGES) == 6


@pytest.mark.parametrize("message", [text for text in ERRORS + MESSAGES if text not in OTHERS])
def test_quoted_messages_are_the_kits_own(message):
    assert message in sentences()
