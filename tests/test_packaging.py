"""Installing: the extras and what is said where one is missing, the wheel, the Makefile's Pythons, the workflow."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import puma
from puma.cli import app as cli
from puma.errors import EXTRAS, DependencyError, extra_of, install_command, require
from puma.retriever.model import Retriever
from support import installs

SOURCES = Path(puma.__file__).parent
ROOT = SOURCES.parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = {"all", "dev", "crosscheck", "integrations", "servers", "deploy"}
"""Extras that only gather others, or serve the tests."""
BROUGHT_ALONG = {
    "grpc": "pymilvus",
    "starlette": "fastapi",
    "pydantic": "lancedb",
    "pydantic_core": "lancedb",
    "tokenizers": "transformers",
}
"""Modules that sources import and that come with a declared package, and that package."""
OPTIONAL = {"uvloop"}
"""Modules that are used where they are installed, and not missed elsewhere."""


def declared(lines, *, markers=True):
    """Canonical names of required distributions, those of the project's own extras resolved."""
    names = set()
    for asked in map(Requirement, lines):
        if canonicalize_name(asked.name) == PROJECT["name"]:
            for extra in asked.extras:
                names |= declared(PROJECT["optional-dependencies"][extra], markers=markers)
        elif markers or asked.marker is None:
            names.add(canonicalize_name(asked.name))
    return names


@cache
def owners():
    return metadata.packages_distributions()


def distribution(module):
    """The distribution that brings a module; by its name where it is not installed."""
    names = {canonicalize_name(owner) for owner in owners().get(module, [])}
    plain = canonicalize_name(module)
    return plain if plain in names or len(names) != 1 else names.pop()


def third_party(path):
    """``(module, at the file's top level)`` of every import that is neither of Python nor of the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            top = name.split(".")[0]
            if top != "puma" and top not in sys.stdlib_module_names:
                yield top, node in tree.body


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_table_of_extras_is_what_pyproject_declares(extra):
    brought = declared(PROJECT["optional-dependencies"][extra], markers=False)
    own = {"llama_index": "llama-index-core"}  # not installed in every checkout, and not named like its module
    assert {own.get(module) or distribution(module) for module in EXTRAS[extra]} == brought


def test_every_extra_is_in_the_table_and_all_brings_every_command():
    assert set(PROJECT["optional-dependencies"]) - GROUPS == set(EXTRAS)
    parts = set().union(*(Requirement(line).extras for line in PROJECT["optional-dependencies"]["all"]))
    assert set(EXTRAS) - parts == {"quantised", "langchain", "llama-index", "ray", "milvus", "object-store"}


def test_every_import_has_a_package_that_brings_it():
    extras = {module for modules in EXTRAS.values() for module in modules}
    base = declared(PROJECT["dependencies"])
    for path in SOURCES.rglob("*.py"):
        for module, _ in third_party(path):
            home = BROUGHT_ALONG.get(module, module)
            known = home in extras | OPTIONAL or distribution(home) in base
            assert known, f"{path.relative_to(SOURCES)} imports {module}, which no dependency brings"


def test_only_the_service_and_the_trainer_import_an_extras_package_at_once():
    extras = {module for modules in EXTRAS.values() for module in modules} | {"starlette"}
    eager = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if any(at_top and module in extras for module, at_top in third_party(path))
    }
    assert {name for name in eager if not name.startswith("serve/")} == {"training/trainer.py"}


@pytest.mark.parametrize(("extra", "module"), [(extra, module) for extra in EXTRAS for module in EXTRAS[extra]])
def test_each_missing_module_is_named_with_the_exact_command(extra, module, monkeypatch):
    for other in EXTRAS[extra]:
        monkeypatch.setitem(sys.modules, other, sys)  # as if installed: not every extra is, where tests run
    require("this", extra)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError) as raised:
        require("this", extra)
    command = f"pip install 'puma-retrieval[{extra}]'"
    assert str(raised.value) == f"this needs {module}, which is not installed: {command}"


def test_a_module_that_no_finder_knows_is_missing_and_several_are_listed(monkeypatch):
    for name in ("fastapi", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match=r"^it needs fastapi, uvicorn, which are not installed: pip"):
        require("it", "serve")
    with pytest.raises(DependencyError, match="it needs no_such_module_here, which is"):
        require("it", "train", "no_such_module_here")
    require("it", "serve", "json")
    with pytest.raises(KeyError, match="surf"):
        install_command("surf")


def lacking(monkeypatch, extra):
    for module in EXTRAS[extra]:
        monkeypatch.setitem(sys.modules, module, None)


COMMANDS = {
    "serve": ["serve", "OUT/my.index"],
    "train": ["train", "--base", "BASE", "--data", "OUT", "--out", "OUT/model"],
    "train, own pairs": ["train", "--model", "BASE", "--data", "OUT/pairs.csv", "--out", "OUT/model"],
    "mini": ["quickstart", "--out", "OUT/quick"],
    "mini, a recipe": ["train", "mini", "--out", "OUT/model"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_without_its_extra_says_what_to_install_and_makes_nothing(case, base, tmp_path, monkeypatch, capsys):
    (tmp_path / "pairs.csv").write_text("query_text,positive_text\na,b\n", encoding="utf-8")
    extra = case.split(",")[0]
    lacking(monkeypatch, extra)
    words = [word.replace("BASE", str(base)).replace("OUT", str(tmp_path)) for word in COMMANDS[case]]
    assert cli.main(words) == 1
    err = capsys.readouterr().err
    assert err.endswith(f"not installed: pip install 'puma-retrieval[{extra}]'\n")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_a_function_without_its_extra_says_so_before_anything_else(monkeypatch, tmp_path):
    from puma import serve as service
    from puma.evaluation.foreign import load_foreign
    from puma.retriever.adapters import with_adapter

    for extra in ("serve", "train"):
        lacking(monkeypatch, extra)
    with pytest.raises(DependencyError, match=r"\[serve\]'$"):
        service.create_app  # noqa: B018
    with pytest.raises(DependencyError, match=r"\[train\]'$"):
        puma.train(None, [], None, tmp_path / "out")
    with pytest.raises(DependencyError, match=r"LoRA adapter needs peft.*\[train\]'$"):
        with_adapter(None, tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DependencyError, match=r"\[train\]'$"):
        load_foreign(str(tmp_path))


@pytest.mark.parametrize(
    ("module", "said"),
    [("peft.tuners", "this needs peft.tuners: pip install 'puma-retrieval[train]'"), ("attic", "a defect in PUMA")],
)
def test_an_import_that_no_check_foresaw_is_answered_by_the_command_line(module, said, monkeypatch, capsys):
    def fail(**_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "app", fail)
    assert cli.main([]) == 1
    assert said in capsys.readouterr().err
    assert extra_of("scipy.sparse") == "mini"


def test_the_version_is_one(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"puma {puma.__version__}\n"
    assert f"\nversion: {puma.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_workflow_calls_targets_that_exist_on_the_declared_pythons():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    called = [target for step in steps for target in re.findall(r"make ([\w-]+)", step.get("run", ""))]
    assert {"test", "lint"} <= set(called) <= targets
    classified = {line.split(" :: ")[-1] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", line)}
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == classified == {"3.11", "3.12", "3.13"}


@pytest.mark.parametrize(
    ("held", "arguments", "venv"),
    [
        (None, ["PYTHON=./python3.13"], ".venv"),
        ("3.13", ["PYTHON=./python3.13"], ".venv"),
        ("3.11", ["PYTHON=./python3.13"], ".venv-3.13"),
        ("3.11", [], ".venv"),
        ("3.11", ["PYTHON=./python3.13", "VENV=mine"], "mine"),
    ],
)
def test_make_uses_the_python_it_is_given_and_keeps_the_environment_of_another(tmp_path, held, arguments, venv):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()

    def python(path, version):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)

    python(tmp_path / "python3.13", "3.13")
    if held is not None:
        python(tmp_path / ".venv/bin/python", held)
    plan = subprocess.run(["make", "-n", "setup", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"{venv}/bin/python -m pip " in plan.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return installs.built_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs' folder of a virtual environment with the wheel and its base dependencies alone. pip itself finds
    that nothing is missing: it may fetch nothing."""
    distributions = installs.needed(installs.requirements(wheel))
    folder = tmp_path_factory.mktemp("base")
    python = installs.environment(folder / "venv", list(distributions.values()))
    pip = [*installs.PIP, "--python", str(python)]
    for words in (["install", "--quiet", "--no-index", str(wheel)], ["check"]):
        subprocess.run([*pip, *words], env=installs.clean_environment(folder), check=True)
    return python.parent


@pytest.mark.slow
def test_the_wheel_holds_the_types_the_recipes_the_page_and_the_default_model(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name == f"puma_retrieval-{puma.__version__}-py3-none-any.whl"
    for name in ("py.typed", "_recipes/mini.yaml", "mini/puma-mini.safetensors"):
        assert f"puma/{name}" in names
    files = [path for path in (SOURCES / "serve/page").iterdir() if path.is_file()]
    page = {path.relative_to(SOURCES.parent).as_posix() for path in files}
    assert page <= set(names)
    assert {name.split("/")[0] for name in names} == {"puma", f"puma_retrieval-{puma.__version__}.dist-info"}


@pytest.mark.slow
def test_base_dependencies_alone_embed_index_and_search(installed, base, tmp_path):
    model = tmp_path / "model"
    Retriever.from_base(base, layers=2, prompt="short", device="cpu").save_pretrained(model)
    (tmp_path / "texts.txt").write_text("a red fox\na blue heart\n", encoding="utf-8")
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / "red.png")

    def run(*words, code=0):
        command = [installed / "puma", *words]
        home = installs.clean_environment(tmp_path)
        done = subprocess.run(command, cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    def asked(code):
        command = [installed / "python", "-c", code]
        return subprocess.run(command, cwd=tmp_path, env=installs.clean_environment(tmp_path), check=False).returncode

    for modules in (EXTRAS["serve"], EXTRAS["mini"], EXTRAS["plot"]):
        for module in modules:
            assert asked(f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is not None)") == 0, module
    assert "search" in run("--help").stdout
    assert run("--version").stdout == f"puma {puma.__version__}\n"
    run("index", "add", "my.index", "texts.txt", "red.png", "--model", "model")
    for query in (["a red fox"], ["--image", "red.png"]):
        found = json.loads(run("search", "my.index", *query, "--model", "model", "--json").stdout)
        assert len(found) == 3  # in any order: the model is random
        assert {hit["modality"] for hit in found} == {"text", "image"}
    run("embed", "texts.txt", "--out", "v.npz", "--model", "model")
    assert asked("import gguf, puma.mini.base.assemble, puma.mini.adapter.file") == 0  # what makes the default model
    for extra, words in (("serve", "serve my.index"), ("mini", "quickstart"), ("mini", "train mini --out m")):
        assert f"pip install 'puma-retrieval[{extra}]'" in run(*words.split(), code=1).stderr
    (tmp_path / "pairs.csv").write_text("query_text,positive_text\na,b\n", encoding="utf-8")
    said = run("train", "--data", "pairs.csv", "--model", "model", code=1).stderr
    assert "pip install 'puma-retrieval[train]'" in said
