"""What MkDocs runs while it builds the documentation: the page of the command line is made of what --help prints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds the page of the command line."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/cli.md", content=cli_page()))
    return files


def cli_page() -> str:
    """Returns a section for the program and one for each command, with its help word for word."""
    sys.path.insert(0, str(ROOT))
    try:
        from jaxperturb.cli import main
        from jaxperturb.cli.command import help_text
    finally:
        sys.path.pop(0)
    parts = ["# Command line", _fenced(main.overview())]
    parts += [f"## {name}\n\n{_fenced(help_text(command))}" for name, command in main.COMMANDS.items()]
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"
