"""What the documentation's tests read out of Markdown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from kdexport.cli import main


def code_blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> list[str]:
    """Each `kdexport ...` of the fenced blocks, and of inline code where it is more than the name of a verb."""
    fenced = [line for _, body in code_blocks(text) for line in body.splitlines()]
    inline = re.findall(r"`(kdexport [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    complete = [line for line in inline if not re.fullmatch(r"kdexport( [a-z]+)+", line)]
    return [line for line in (*fenced, *complete) if line.startswith("kdexport ")]


def parse_command(line: str) -> None:
    """Parse as the command line does, without running anything. Raises click.UsageError."""
    words = shlex.split(line.replace(r"\|", "|").partition(" | ")[0], comments=True)[1:]
    command: click.Command = main
    path = ["kdexport"]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            raise click.UsageError(f"{line}: no verb '{words[0]}'")
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    if not any(word in ("--help", "-h") for word in words) and not isinstance(command, click.Group):
        command.make_context(" ".join(path), words)


def links(path: Path) -> list[str]:
    """Targets of the links of a file that point into the repository, without their anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    return [link.partition("#")[0] for link in found if "://" not in link and not link.startswith("#")]
