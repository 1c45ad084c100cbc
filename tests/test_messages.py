"""What the README says of messages holds for the messages that the kit prints."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OTHERS = {"CUDA out of memory", "No space left on device"}  # PyTorch's and the system's
SECTION = (ROOT / "README.md").read_text().split("## What went wrong")[1].split("\n## ")[0]
QUOTED = re.findall(r"^\| `([^`]+)`", SECTION, flags=re.MULTILINE)


def sentences() -> str:
    """Return all text that stands in the package's code, with … where something is filled in."""
    found = []
    for file in sorted((ROOT / "dgs_utils").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_there_are_ten():
    assert len(QUOTED) == 10
    assert set(QUOTED) >= OTHERS


@pytest.mark.parametrize("message", [text for text in QUOTED if text not in OTHERS])
def test_quoted_messages_are_the_kits_own(message):
    assert message in sentences()
