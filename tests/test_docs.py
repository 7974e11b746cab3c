"""What README and the pages of docs/ about indexing, searching and serving show works: every Python block and every
command is run, with a toy encoder in place of the model; the flags they name exist."""

import gc
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest
import typer

import puma
from puma.cli import app as cli
from support.documents import ROOT, Block, blocks, workspace
from support.encoders import ToyEncoder

COMMAND_PAGES = ("docs/indexing.md", "docs/searching.md")
"""Their commands are run, each page's one after the other."""
PYTHON_PAGES = ("README.md", "docs/python.md")
"""Their Python blocks are run, each page's one after the other."""
SERVICE_PAGE = "docs/serving.md"
"""Its clients are run against a service."""
SERVICE = "http://127.0.0.1:8000"
COMMANDS = typer.main.get_command(cli.app)
FLAG = re.compile(r"`(--[a-z][a-z-]*)")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with everything the examples name, and no real model."""
    workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PUMA_MODEL", "toy")
    monkeypatch.setattr("puma.retriever.model.Retriever.from_pretrained", lambda *_, **__: ToyEncoder(dim=576))
    monkeypatch.setattr("puma.mini.default.default_model", lambda *_, **__: tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A running service over an index of the examples' things; its address."""
    uvicorn = pytest.importorskip("uvicorn")
    from puma.serve import create_app

    folder = tmp_path_factory.mktemp("served")
    workspace(folder)
    searcher = puma.Searcher(ToyEncoder(dim=576), folder / "my.index")
    searcher.add_paths([folder / "Pictures", folder / "captions.jsonl", folder / "goods.parquet"], progress=False)
    server = uvicorn.Server(uvicorn.Config(create_app(searcher), log_level="warning", ws="none"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def command_of(arguments: list[str]):
    """The command that a line calls, and the rest of the line."""
    found, rest = COMMANDS, list(arguments)
    while isinstance(found, typer.core.TyperGroup) and rest:
        assert rest[0] in found.commands, f"puma {' '.join(arguments)}: no command {rest[0]}"
        found = found.commands[rest.pop(0)]
    return found, rest


def flags_of(command) -> set[str]:
    return {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}


def every_command(command) -> list:
    if isinstance(command, typer.core.TyperGroup):
        return [leaf for child in command.commands.values() for leaf in every_command(child)]
    return [command]


@pytest.mark.parametrize("document", ["README.md", *COMMAND_PAGES, SERVICE_PAGE])
def test_commands_have_the_flags_that_are_shown(document):
    lines = [line for block in blocks(document, "", "bash", "ini") for line in block.commands()]
    assert lines
    for line in lines:
        command, rest = command_of(line)
        unknown = {word.split("=")[0] for word in rest if word.startswith("-") and word != "-"} - flags_of(command)
        assert not unknown, f"puma {' '.join(line)}"


@pytest.mark.parametrize("document", [*COMMAND_PAGES, SERVICE_PAGE])
def test_flags_named_in_the_text_exist(document):
    known = set().union(*(flags_of(command) for command in every_command(COMMANDS)))
    named = set(FLAG.findall((ROOT / document).read_text()))
    assert named
    assert named <= known


@pytest.mark.parametrize("document", PYTHON_PAGES)
def test_python_blocks_run_one_after_the_other(document, home):
    shown = blocks(document, "python")
    assert shown
    namespace: dict = {}
    for block in shown:
        if block.run and not block.missing():
            run_python(block, block.text, namespace)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("block", blocks(SERVICE_PAGE, "python"), ids=str)
def test_python_clients_run(block, home, service):
    compiled = block.text.replace(SERVICE, service)
    if not block.run or block.missing():
        compile(compiled, str(block), "exec")
        pytest.skip(f"not run here: {', '.join(block.missing()) or 'the document says why'}")
    run_python(block, compiled, {})
    gc.collect()  # an example does not close its client; its sockets go now, while that is no fault


@pytest.mark.parametrize("document", COMMAND_PAGES)
def test_commands_run_one_after_the_other(document, home, capsys):
    lines = [line for block in blocks(document, "") if block.run for line in block.commands()]
    assert lines
    for line in lines:
        code = cli.main(line)
        captured = capsys.readouterr()
        assert code == 0, f"puma {' '.join(line)}: {captured.err}"
        assert captured.out, line


@pytest.mark.parametrize("block", [block for block in blocks(SERVICE_PAGE, "bash") if "curl" in block.text], ids=str)
def test_curl_lines_run(block, home, service):
    if not block.run or shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("the document says why" if not block.run else "curl is not installed")
    script = 'set -euo pipefail\ncurl() { command curl -sS --fail-with-body "$@"; }\n' + block.text
    done = subprocess.run(
        ["bash", "-c", script.replace(SERVICE, service)], capture_output=True, text=True, check=False, cwd=home
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


def run_python(block: Block, text: str, namespace: dict) -> None:
    # Padded, so that a traceback names the document's own line.
    exec(compile("\n" * block.line + text, str(block.document), "exec"), namespace)
