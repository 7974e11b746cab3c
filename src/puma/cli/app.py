"""``puma``: the command line, which gathers the modules of :mod:`puma.cli.commands` and turns errors into one line.

Exit codes: 0 done, 1 the machine's fault, 2 the user's, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys

import typer

if (
    not sys.stderr.isatty()
):  # read by tqdm when it is imported, below: a log file needs a line now and then, no moving bar
    os.environ.setdefault("TQDM_MININTERVAL", "10")

from puma.cli import commands
from puma.cli.printable import printable
from puma.errors import DISTRIBUTION, NEEDS_WEIGHTS, PumaError, extra_of, install_command

app = typer.Typer(
    name="puma",
    help="Turn any open multimodal LLM into a retriever of texts and images, and use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130
# Typer may carry its own copy of click, whose classes are not the ones of an installed click.
_USAGE = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _print_version(wanted: bool) -> None:
    if wanted:
        import puma

        typer.echo(f"puma {puma.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", "-V", callback=_print_version, is_eager=True, help="Print the version."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the Python traceback of an error (or set PUMA_DEBUG=1)."),
) -> None:
    if debug:
        os.environ["PUMA_DEBUG"] = "1"


for _module in sorted(module.name for module in pkgutil.iter_modules(commands.__path__) if module.name[0] != "_"):
    importlib.import_module(f"puma.cli.commands.{_module}").register(app)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code; never raises for what the user or the machine did."""
    try:
        result = app(args=arguments, prog_name="puma", standalone_mode=False)
        if result == _INTERRUPTED:  # some versions of Typer turn Ctrl-C into this exit code themselves
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted; finished work is kept, give the same command again to continue", _INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as in `puma search ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PumaError as error:
        return _say(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is not None:
            return _say(f"this needs {error.name}: {install_command(extra)}", 1)
        if (error.name or "").split(".")[0] in NEEDS_WEIGHTS:
            whole = f"this needs {error.name}, which is not installed: pip install {DISTRIBUTION}"
            return _say(f"{whole}; without it, name an exported model (--model, PUMA_MODEL)", 1)
        return _defect(error)
    except MemoryError:
        return _say("not enough memory; use a smaller batch, a smaller model, or a larger machine", 1)
    except OSError as error:
        return _say(f"{error.filename or 'the operating system'}: {error.strerror or error}", 1)
    except Exception as error:
        if isinstance(error, _USAGE):  # an unknown option, a missing argument; a group without a command shows its help
            error.show()  # type: ignore[attr-defined]
            return 2
        return _defect(error)


def run() -> None:
    """The ``puma`` program."""
    code = main()
    _leave()
    sys.exit(code)


def _leave() -> None:
    """End this process's part in a gloo group, as torch asks for. While Python itself ends, a lost connection to a
    process that has left aborts this one (once seen under load), and its exit code is lost."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    if distributed.get_backend() == "gloo":  # NCCL's own end may wait for a process that is gone
        distributed.destroy_process_group()


def _defect(error: Exception) -> int:
    name = type(error).__name__
    return _say(f"a defect in PUMA ({name}: {error}); run again with PUMA_DEBUG=1 and report the traceback", 1)


def _say(message: str, code: int) -> int:
    if os.environ.get("PUMA_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exc()
    listed = re.sub(r":\s*\n\s+", ": ", message.strip())  # the entries of a list stay apart in the one line
    listed = re.sub(r"\n[^\S\n]+", "; ", listed)
    print(f"error: {printable(' '.join(listed.split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    run()
