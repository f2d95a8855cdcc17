"""Commands of shell scripts are found wherever they hide."""

from __future__ import annotations

import pytest

from image_builder.shell_commands import function_names, simple_commands


def found(script: str) -> list[str]:
    return [command.text for command in simple_commands(script)]


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("a b c\n", ["a b c"]),
        ("a; b && c || d & e | f", ["a", "b", "c", "d", "e", "f"]),
        ("a \\\n  b\n", ["a b"]),
        ("# a\nb # c\nd#e\n", ["b", "d#e"]),
        ("if a; then b; elif c; then d; else e; fi\n", ["a", "b", "c", "d", "e"]),
        ("while ! a; do b; done\nuntil c; do :; done\n", ["a", "b", "c", ":"]),
        ("for x in a b; do c $x; done\n", ["c $x"]),
        ('case "$1" in\n a|b) c;;\n "d" | "e") f\n ;;\n *) g;;\nesac\n', ["c", "f", "g"]),
        ("f() {\n a\n}\nf x\n", ["a", "f x"]),
        ("(a; b)\n", ["a", "b"]),
        ("X=1 a; Y=$(b c)\n", ["a", "b c"]),
        ('a "$(b | c)" `d`\n', ['a "$(b | c)" `d`', "b", "c", "d"]),
        ("a \"x; y\" 'z | w'\n", ["a \"x; y\" 'z | w'"]),
        ("a $((1 + 2)) ${x:-y}\n", ["a $((1 + 2)) ${x:-y}", ': "(1 + 2)"']),
        ("a > /dev/null 2>&1\n", ["a"]),
        ("a >> file\nb >file2\n> file3\n", ["a > file", "b > file2", "> file3"]),
        ("a <<EOF\nrm -rf /\nEOF\nb\n", ["a", "b"]),
        ("cat > /etc/x <<-'END'\n\tevil\n\tEND\nb\n", ["cat > /etc/x", "b"]),
        ("[ -e x ] && rm x\n", ["[ -e x ]", "rm x"]),
        ("a &\nb >&2 &\n", ["a", "b"]),
    ],
)
def test_commands(script: str, commands: list[str]) -> None:
    assert found(script) == commands


def test_functions() -> None:
    assert function_names("a() {\n:\n}\nb_2 ( ) { :; }\nc x\n") == {"a", "b_2"}
