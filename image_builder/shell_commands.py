"""Lists the simple commands of a POSIX shell script, without running or fully understanding it.

Every command that the script could run under any condition is listed, also those inside of ``$(...)``, loops
and functions (IEEE Std 1003.1, "Shell Command Language"). Left out: comments, here-documents, keywords, case
patterns, the names of functions where they are defined.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_PATTERN_END = re.compile(r"[^\n;&()]*\)")
_PLAIN = re.compile(r"[^\s;|()&\\'\"`$]+")
_KEYWORDS = frozenset(
    {"if", "then", "elif", "else", "fi", "while", "until", "do", "done", "esac", "!", "{", "}"}
)
_FUNCTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*\(\s*\)")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One simple command: ``words`` as written, without redirections; ``writes``, the files it is sent to."""

    words: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The command on one line."""
        return " ".join((*self.words, *(f"> {name}" for name in self.writes)))


def function_names(script: str) -> frozenset[str]:
    """Names of the functions that ``script`` defines."""
    return frozenset(match[1] for match in _FUNCTION.finditer(script))


def simple_commands(script: str) -> tuple[Command, ...]:
    """The simple commands of ``script`` in the order in which they stand there."""
    text = _without_heredocs(script.replace("\\\n", " "))
    return tuple(command for words in _Scanner(text).segments() if (command := _command(words)) is not None)


def _without_heredocs(text: str) -> str:
    lines: list[str] = []
    waiting: list[str] = []
    for line in text.splitlines():
        if waiting:
            if line.strip() == waiting[0]:
                waiting.pop(0)
            continue
        lines.append(line)
        if not line.lstrip().startswith("#"):
            waiting = [match[2] for match in _HEREDOC.finditer(line)]
    return "\n".join(lines)


def _command(words: list[str]) -> Command | None:
    words, writes = _split_redirections(words)
    while words and words[0] in _KEYWORDS:
        words = words[1:]
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    if words and words[0] in {"for", "case", "function"}:
        words = []
    return Command(words=tuple(words), writes=tuple(writes)) if words or writes else None


def _split_redirections(words: list[str]) -> tuple[list[str], list[str]]:
    kept: list[str] = []
    writes: list[str] = []
    rest = iter(words)
    for word in rest:
        match = re.fullmatch(r"([0-9]*)(<<-?|>>|>\||<>|>&|<&|<|>)(.*)", word, re.DOTALL)
        if match is None:
            kept.append(word)
            continue
        target = match[3] or next(rest, "")
        quiet = match[2] in {"<", "<<", "<<-", "<&"} or target.strip("\"'") in {"/dev/null", "/dev/stderr"}
        if not quiet and not re.fullmatch(r"&?[0-9-]", target):
            writes.append(target)
    return kept, writes


@dataclass(slots=True)
class _Scanner:
    """Splits a text into segments (lists of words) at newlines and operators."""

    text: str
    at: int = 0
    nested: list[str] = field(default_factory=list)

    def segments(self) -> Iterator[list[str]]:
        words: list[str] = []
        depth = 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t":
                self.at += 1
            elif char == "#":
                self._skip_comment()
            elif char in "\n;&|()":
                self.at += 1
                depth, keep = self._operator(char, depth, words)
                if keep:
                    yield words
                words = []
            else:
                words.append(self._word())
            if not words:
                yield from self._nested_segments()
        yield words
        yield from self._nested_segments()

    def _operator(self, char: str, depth: int, words: list[str]) -> tuple[int, bool]:
        """The new depth of parentheses, and whether the words before the operator are a command."""
        if char == "(":
            return depth + 1, False  # what stands before is the name of a function
        if char == ")":
            return max(depth - 1, 0), depth > 0  # without an opening one it ends a case pattern
        # ``a | b)`` is one case pattern; its first part would look like a command
        is_pattern = char == "|" and depth == 0 and _PATTERN_END.match(self.text, self.at)
        return depth, bool(words) and not is_pattern

    def _skip_comment(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def _nested_segments(self) -> Iterator[list[str]]:
        while self.nested:
            yield from _Scanner(self.nested.pop(0)).segments()

    def _word(self) -> str:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in " \t\n;|()":
            if plain := _PLAIN.match(self.text, self.at):
                self.at = plain.end()
                continue
            char = self.text[self.at]
            if char == "&" and self.text[self.at - 1] not in "<>" and self.at > start:
                break
            self._step(char)
            if char == "&" and self.at == start + 1:
                break
        return self.text[start : self.at]

    def _step(self, char: str) -> None:
        """Move over one character of a word, or over a whole quotation or substitution."""
        if char == "\\":
            self.at += 2
        elif char == "'":
            self.at = self._after("'", self.at + 1)
        elif char == '"':
            self._double_quoted()
        elif char == "`":
            end = self._after("`", self.at + 1)
            self.nested.append(self.text[self.at + 1 : end - 1])
            self.at = end
        elif self.text.startswith("$(", self.at):
            self._substitution()
        elif self.text.startswith("${", self.at):
            self.at = self._after("}", self.at)
        else:
            self.at += 1

    def _double_quoted(self) -> None:
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] != '"':
            char = self.text[self.at]
            if char in "\\`" or self.text.startswith("$(", self.at):
                self._step(char)
            else:
                self.at += 1
        self.at += 1

    def _substitution(self) -> None:
        start = self.at + 2
        depth, self.at = 1, start
        while self.at < len(self.text) and depth:
            char = self.text[self.at]
            depth += (char == "(") - (char == ")")
            if char in "'\"\\":
                self._skip_quoted(char)
            else:
                self.at += 1
        inner = self.text[start : self.at - 1]
        # $((1 + 2)) is arithmetic; only substitutions in it are commands
        self.nested.append(f': "{inner}"' if inner.startswith("(") else inner)

    def _skip_quoted(self, char: str) -> None:
        if char == "\\":
            self.at += 2
        else:
            self.at = self._after(char, self.at + 1)

    def _after(self, mark: str, start: int) -> int:
        end = self.text.find(mark, start)
        return len(self.text) if end < 0 else end + 1
