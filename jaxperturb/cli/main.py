"""The entry point: finds the command, runs it, and turns what goes wrong into one line and an exit status."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import app, logging

from jaxperturb.cli import (
    cache,
    changes,
    compare,
    convert,
    datasets,
    doctor,
    evaluate,
    export,
    faults,
    inspect,
    layers,
    merge,
    networks,
    perturbations,
    plan,
    plot,
    recover,
    report,
    status,
    sweep,
    table,
    verify,
)
from jaxperturb.cli.command import HELP_WORDS, Command, help_text, parse
from jaxperturb.errors import JaxPerturbError, UsageError, did_you_mean

COMMANDS: dict[str, Command] = {
    module.COMMAND.name: module.COMMAND
    for module in (
        *(sweep, evaluate, plot, table, report, status, merge, compare, plan, faults),
        *(recover, changes),
        *(networks, layers, datasets, cache, perturbations),
        *(convert, inspect, verify, export, doctor),
    )
}

FAILURE, USAGE, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141


def main() -> None:
    """Runs the command line of this process and exits with its status."""
    # absl gets the program's name alone, so that its own flags stay out of ours.
    app.run(_run_process, argv=sys.argv[:1])


def _run_process(_: Sequence[str]) -> int:
    # absl shows remarks of the libraries below us; only their warnings are for a user.
    logging.set_verbosity(logging.WARNING)
    # A console script's own folder is on the path, but not the one where package.module:function may lie.
    sys.path.append(str(Path.cwd()))
    return run(sys.argv[1:])


def run(words: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        words: what was typed after ``jaxperturb``.

    Returns:
        The exit status: 0; 2 for a mistake in what was asked; 1 for a failure; 130 after Ctrl-C, 143 after SIGTERM;
        141 where the reader of standard output has gone.
    """
    debug = "--debug" in words or "--debug=true" in words
    try:
        _dispatch(list(words))
        sys.stdout.flush()
    except JaxPerturbError as error:
        return _report(str(error), error.exit_status, debug)
    except KeyboardInterrupt as stop:
        return _report(str(stop) or "interrupted", getattr(stop, "exit_status", INTERRUPTED), debug)
    except BrokenPipeError:
        return _leave_closed_pipe()
    except (OSError, MemoryError) as error:
        return _report(f"{type(error).__name__}: {error}", FAILURE, debug)
    except Exception as error:  # the outermost frame: whatever arrives here is a bug of ours, and said to be one
        return _report_bug(error)
    return 0


def _dispatch(words: list[str]) -> None:
    if not words:
        raise UsageError(f"a command is needed: {', '.join(COMMANDS)}; see 'jaxperturb --help'")
    name, *rest = words
    if name in HELP_WORDS or name == "help":
        print(help_text(_find(rest[0])) if rest else overview())
    elif name == "--version":
        from jaxperturb import __version__

        print(f"jaxperturb {__version__}")
    else:
        _run_command(_find(name), rest)


def _run_command(command: Command, words: list[str]) -> None:
    before_dashes = words[: words.index("--")] if "--" in words else words
    if any(word in HELP_WORDS for word in before_dashes):
        print(help_text(command))
        return
    parsed = parse(command, words)
    command.run(parsed.values, *parsed.arguments)


def _find(name: str) -> Command:
    if name in COMMANDS:
        return COMMANDS[name]
    if name.startswith("-"):
        raise UsageError(f"a command comes before flags such as {name!r}: jaxperturb COMMAND --flag=value")
    near = did_you_mean(name, COMMANDS) or f"; commands are {', '.join(COMMANDS)}"
    raise UsageError(f"unknown command {name!r}{near}")


def overview() -> str:
    """Returns the help of the program: its commands, and where to begin."""
    rows = "\n".join(f"  {command.name:<15}{command.summary}" for command in COMMANDS.values())
    return (
        "usage: jaxperturb COMMAND [--flag=value ...]\n\n"
        "Lesions of trained convolutional networks: take weights away, add noise to them, and see what breaks.\n\n"
        f"Commands:\n{rows}\n\n"
        "Start with:\n"
        "  jaxperturb sweep                 # the bundled network, all its layers, three kinds of damage\n"
        "  jaxperturb COMMAND --help        # flags of a command, with examples"
    )


def _report(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    # A message from a library may hold line breaks; the promise is one line.
    print(f"jaxperturb: {' '.join(message.split())}", file=sys.stderr)
    return status


def _report_bug(error: Exception) -> int:
    traceback.print_exc()
    print(
        f"jaxperturb: this is a bug of jaxperturb ({type(error).__name__}): please report it, with the lines above, "
        "your command, and what 'jaxperturb doctor' prints",
        file=sys.stderr,
    )
    return FAILURE


def _leave_closed_pipe() -> int:
    # Python flushes standard output once more when it exits; let that go nowhere instead of failing.
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
    return CLOSED_PIPE


if __name__ == "__main__":
    main()
