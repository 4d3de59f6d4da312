"""The command line: composes the layers, one file a group of commands.

Commands are found by name and loaded when they are asked for, and their bodies import what they need: ``--help`` is
instant. Invariant: a mistake of the user ends with one message on standard error and exit status 2, and what the
machine lacks (memory, room on a disk) with one message and status 1; only what nobody foresaw has a traceback.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from mlaas4hep.errors import MLaaSError, UserError, nearest

# Name -> (module of this package that holds `command`, one line for the overview).
COMMANDS = {
    "quickstart": ("quickstart", "The whole story on a small real sample, in a minute."),
    "inspect": ("inspect", "Trees, columns, kinds and ranges of files; --draft writes a first config."),
    "train": ("train", "Train the model of a config; its test part stays closed."),
    "evaluate": ("evaluate", "Open the test part of a run, once, and judge the model on it; compare runs."),
    "replay": ("replay", "Train a bundle again and say whether it is the same, hash by hash."),
    "tune": ("tune", "Search the dials of a config by the validation part, with several workers."),
    "benchmark": ("benchmark", "How fast a config runs here: read, pack, train, score; compare machines."),
    "verify": ("verify", "Prove on this machine that a bundle scores as it should, alone and among others."),
    "convert": ("convert", "Make a model of any framework one that can be served, proven equal."),
    "serve": ("serve", "Answer predictions over HTTP and gRPC."),
    "label": ("label", "Name versions of a model, such as stable."),
    "score": ("score", "Scores of models back into files, beside every event; check that they belong together."),
    "predict": ("predict", "Ask a server one question from the shell."),
}

# Commands of the original, and what does the same here.
_OF_THE_ORIGINAL = {
    "workflow": "train --files=files.txt --labels=labels.txt --model=my_model.py --params=params.json",
    "reader": "inspect FILE (--fin), with --stats for what --info tells",
}

EXIT_USER, EXIT_FAILURE, EXIT_INTERRUPTED = 2, 1, 130


class LazyCommands(click.Group):
    """A group whose commands live in modules that are imported when a command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mlaas4hep.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        original = _OF_THE_ORIGINAL.get(args[0].removesuffix(".py")) if args else None
        if original is not None:
            raise click.UsageError(f"no command '{args[0]}'; it is: mlaas4hep {original}", ctx)
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command '{args[0]}'{nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: mlaas4hep quickstart. Then: mlaas4hep inspect my_files/*.root --draft > config.yaml",
)
@click.version_option(package_name="mlaas4hep", message="%(prog)s %(version)s")
def group() -> None:
    """Machine Learning as a Service for High Energy Physics: from ROOT files to a served model.

    \b
      files  ->  inspect  ->  config.yaml  ->  train  ->  a run with a bundle: model and contract
      run    ->  evaluate ->  a page with figures and pictures
      bundle ->  score    ->  friend trees with a score for every event
      bundle ->  serve    ->  predict (or curl, or tritonclient)
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit status."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 done, 1 failed, 2 a mistake of the user, 130 interrupted)."""
    try:
        status = group.main(args=arguments, prog_name="mlaas4hep", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # its reader (head, less) has left
        return EXIT_FAILURE
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        return EXIT_USER
    except MLaaSError as error:
        click.echo(f"Error: {error}", err=True)
        return EXIT_FAILURE
    except Exception as error:  # our mistake: told whole, traceback included, with what to do
        click.echo(_last_words(error, sys.argv[1:] if arguments is None else arguments), err=True)
        return EXIT_FAILURE
    return status if isinstance(status, int) else 0


def _last_words(error: Exception, arguments: Sequence[str]) -> str:
    """What is said of an error that no layer expected."""
    command = next((f"mlaas4hep {one}" for one in arguments if one in COMMANDS), "mlaas4hep")
    if isinstance(error, MemoryError):
        return f"Error: '{command}' ran out of memory: {str(error) or 'an allocation failed'}"
    if isinstance(error, OSError) and _is_of_output(error):
        _drop_output()
        return f"Error: standard output cannot be written: {error.strerror or error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" for '{error.filename}'" if error.filename else ""
        return f"Error: '{command}' has no room on the disk{place}: {error.strerror}"
    told = "".join(traceback.format_exception(error))
    return f"{told}This is a mistake in mlaas4hep, not yours: please report it with the lines above and '{command}'."


def _is_of_output(error: OSError) -> bool:
    """Whether standard output failed, and not a file: files have a name, or are not written by click or from here."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    writer = frames[-1].f_globals.get("__name__", "") if frames else ""
    return error.filename is None and (writer.partition(".")[0] == "click" or writer == __name__)


def _drop_output() -> None:
    """Let go what waits for standard output: Python must not complain again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
