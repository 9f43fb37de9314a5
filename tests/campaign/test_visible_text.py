"""Text from outside as it is printed, and commands as a shell takes them."""

import os
import subprocess

import pytest

from hvfuzz.campaign.visible_text import LONGEST_LINE, one_line, shell_line, visible

ODD = [
    "plain",
    "a b",
    "it's",
    'say "$HOME" `id` \\',
    "-o",
    "~",
    "ü",
    "\udcff\udc80",
    "a\nb\tc",
    "\x1b[31m",
    "*",
    "|",
    "#x",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("all plain: ü — 木", "all plain: ü — 木"),
        ("\x1b[31mred\x07\x00\x7f", r"\x1b[31mred\x07\x00\x7f"),
        ("a\tb\rc\x0cd", r"a\tb\rc\x0cd"),
        ("out\udcff", r"out\xff"),
        ("\ud800 \u202e \u2028 \ufffe", r"\ud800 \u202e \u2028 \ufffe"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_what_does_not_print_is_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert one_line(text) == shown.replace("\n", "\\n")


def test_a_line_is_bounded_but_paths_stay_whole() -> None:
    path = "/".join(["x" * 255] * 12)
    assert one_line(f"{path}: no such file") == f"{path}: no such file"
    assert one_line("bad " + "9" * 100_000 + " number") == "bad " + "9" * 60 + "...99 number"
    assert len(one_line("a b " * 100_000)) <= LONGEST_LINE


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("word", ODD)
def test_a_shell_reads_back_the_words(word: str, encoding: str) -> None:
    line = shell_line(["printf", "%s", word], encoding)
    assert line.isprintable()
    line.encode(encoding)
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word)
