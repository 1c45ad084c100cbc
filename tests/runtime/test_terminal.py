"""Text for the terminal."""

import subprocess
import sys

import pytest

from dgs_utils.runtime.terminal import MAX_CHARACTERS, format_table, printable


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"), ("a\rb\nc", r"a\rb\nc"), ("\x9b31m", r"\x9b31m"),
    ("cat\u202egpj", r"cat\u202egpj"), ("ñandú, 猫 – 1\t2\xa03", "ñandú, 猫 – 1\t2\xa03"), ("\udcff", r"\udcff")])
def test_invisible_characters_are_shown(text, shown):
    assert printable(text) == shown


def test_long_text_keeps_both_ends():
    text = printable("first " + "x" * 10**6 + " last")
    assert len(text) < MAX_CHARACTERS + 10
    assert text.startswith("first x")
    assert text.endswith("x last")


def test_an_error_with_a_stranger_s_text_is_one_plain_line(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text('"\\e[31m\\nevaluate": {}\n')
    result = subprocess.run([sys.executable, "-m", "dgs_utils.cli", "run", file], capture_output=True, text=True)
    assert result.returncode == 2
    assert r"x.yaml: \x1b[31m\nevaluate is not a section; did you mean 'evaluate'?" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


def test_tables_are_as_wide_as_their_longest_cells():
    assert format_table([["a", "n"], ["long", "1"], ["b", "1000"]], left=["a"]) == [
        "a        n", "long     1", "b     1000"]
