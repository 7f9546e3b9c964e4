"""The program: a command line to a command, what went wrong to words on stderr and an exit code."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from finetune.clihelp import (
    EXIT_DISK_FULL,
    EXIT_GATE,
    EXIT_INTERRUPTED,
    EXIT_MISTAKE,
    EXIT_PIPE,
    EXIT_PREEMPTED,
    EXIT_TRAINING,
)
from finetune.commands import COMMANDS, command_parser
from finetune.device import before_torch, launched, local_rank
from finetune.errors import GateError, RecipeError, TrainingError
from finetune.stop import Preempted
from finetune.told import printing, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done; 2 a mistake in recipe, template or data; 3 the gate or a proof said no; 4 the disk is full;
    5 training could not go on; 75 (EX_TEMPFAIL) stopped by a signal, to be resumed."""
    try:
        options = command_parser().parse_args(arguments)
    except RecipeError as error:  # of a name that no shipped recipe has
        return _end(EXIT_MISTAKE, error.problems)
    if options.command != "doctor":  # it reports the environment as it was given
        before_torch()
    place = getattr(options, "json", None)
    with printing(place, options.quiet) as answer:
        code, problems = _outcome(options)
        if code and not answer.told and local_rank() == 0:
            told = {"command": options.command, "exit_code": code, "problems": problems}
            try:
                tell(place, told)
            except RecipeError as error:
                problems = [*problems, *error.problems]
    return _end(code, problems)


def _end(code: int, problems: Sequence[str]) -> int:
    """The problems on stderr, once a machine however many processes run into the same mistake."""
    if problems and local_rank() == 0:
        print(*(["several things are wrong:"] if len(problems) > 1 else []), *problems, sep="\n", file=sys.stderr)
    return code


def _outcome(options: argparse.Namespace) -> tuple[int, list[str]]:
    """The command's exit code, and what went wrong."""
    try:
        function, _arguments = COMMANDS[options.command]
        return function(options), []
    except RecipeError as error:
        return EXIT_MISTAKE, error.problems
    except GateError as error:
        return EXIT_GATE, [str(error)]
    except TrainingError as error:
        return EXIT_TRAINING, [str(error)]
    except Preempted as signal:
        return EXIT_PREEMPTED, [f"stopped by {signal}; the same command with --resume auto goes on"]
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED, ["interrupted"]
    except Exception as error:
        if "No space left on device" not in str(error):  # OSError, safetensors' own error and torch's all say so
            raise
        return EXIT_DISK_FULL, [f"the disk is full; nothing half-written is left ({error})"]


def program(arguments: Sequence[str] | None = None) -> NoReturn:
    """The process: `main`, and its exit code.

    One of several processes ends without the teardown of the interpreter and of C++ libraries. Caches of torch (the
    meshes of FSDP2) keep process groups alive, and their threads abort a process in its teardown now and then, after all
    its work is done. What is registered with atexit has run, what was printed is written.
    """
    try:
        code = main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # as of `finetune explain ... | head`; the interpreter would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_PIPE
    if launched():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    program()
