"""Every manifest against the schema of its kind, as packages that carry schemas have it.

Core kinds and pods: the wheel ``kubernetes-validate``. Compose: the wheel ``check-jsonschema``. RayJob, RayCluster
and JobSet:
no package of a registry carries their definitions, so the folder PUMA_CRDS names holds them as KubeRay and JobSet
publish
them (CustomResourceDefinition, one a file); without it only the pods inside are checked.
"""

import copy
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
VERSION = "v1.34.0"
"""Of Kubernetes."""
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KINDS = {
    "Deployment": "deployment-apps-v1",
    "StatefulSet": "statefulset-apps-v1",
    "Service": "service-v1",
    "PodDisruptionBudget": "poddisruptionbudget-policy-v1",
}


def packaged(distribution, ending):
    """The file of an installed package whose path ends so."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the package {distribution} (extra 'deploy'), which carries the schemas")
    found = [Path(file.locate()) for file in files if str(file).endswith(ending)]
    assert len(found) == 1, f"{distribution} has no {ending}"
    return found[0]


def documents():
    return [
        pytest.param(document, id=f"{path.name}-{document['kind']}")
        for path in KUBERNETES
        for document in yaml.safe_load_all(path.read_text())
    ]


def validator(name):
    path = packaged("kubernetes-validate", f"{VERSION}-local-strict/{name}.json")

    def beside(uri):  # the definitions that it refers to
        return json.loads((path.parent / uri.rsplit("/", 1)[1]).read_text())

    return jsonschema_rs.validator_for(json.loads(path.read_text()), retriever=beside)


def pods(node):
    """Every pod template within a document."""
    if isinstance(node, dict):
        if isinstance(node.get("template"), dict) and "containers" in node["template"].get("spec", {}):
            yield node["template"]
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


def faults(check, document):
    return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in check.iter_errors(document)]


@pytest.mark.parametrize("document", documents())
def test_a_manifest_is_what_its_kind_allows(document):
    if document["kind"] in KINDS:
        assert faults(validator(KINDS[document["kind"]]), document) == []
        broken = copy.deepcopy(document)
        broken["spec"]["no-such-field"] = 1
        assert faults(validator(KINDS[document["kind"]]), broken) != [], "the schema is strict"
    for template in pods(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
        assert faults(validator("pod-v1"), pod) == []
    if document["kind"] not in ("Service", "PodDisruptionBudget"):
        assert list(pods(document)), "no pod found to check"


def definitions():
    folder = os.environ.get("PUMA_CRDS")
    if not folder:
        pytest.skip("PUMA_CRDS names no folder with the definitions of KubeRay and JobSet")
    read = [yaml.load(path.read_text(), Loader=yaml.CSafeLoader) for path in Path(folder).glob("*.yaml")]
    return {
        (one["spec"]["group"] + "/" + version["name"], one["spec"]["names"]["kind"]): version["schema"][
            "openAPIV3Schema"
        ]
        for one in read
        for version in one["spec"]["versions"]
    }


def closed(schema):
    """A definition that refuses fields it does not name, as the API server's strict validation does."""
    if isinstance(schema, list):
        return [closed(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made = {"type": ["integer", "string"]}
    loose = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not loose:
        made["additionalProperties"] = False
    return made


@pytest.mark.parametrize("document", [one for one in documents() if one.values[0]["kind"] not in KINDS])
def test_a_custom_resource_is_what_its_definition_allows(document):
    schema = closed(definitions()[document["apiVersion"], document["kind"]])
    schema["properties"] |= {"metadata": {"type": "object"}}
    check = jsonschema_rs.validator_for(schema)
    assert faults(check, document) == []
    broken = copy.deepcopy(document)
    broken["spec"]["no-such-field"] = 1
    assert faults(check, broken) != []


def test_compose_is_what_its_specification_allows():
    schema = json.loads(packaged("check-jsonschema", "vendor/compose-spec.json").read_text())
    check = jsonschema_rs.validator_for(schema)
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert faults(check, document) == []
    document["services"]["puma"]["prots"] = []
    assert faults(check, document) != []


def test_files_that_compose_mounts_are_there():
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in document["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("./monitoring"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("."):
                assert source in document["volumes"]


def test_services_and_selectors_meet():
    """A service finds its pods by their labels, and its ports by their names."""
    every = [one.values[0] for one in documents()]
    for service in (one for one in every if one["kind"] == "Service"):
        matching = [
            template
            for one in every
            if one["kind"] in ("Deployment", "StatefulSet")
            for template in pods(one)
            if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ]
        assert len(matching) == 1
        names = {port["name"] for container in matching[0]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def commands():
    """The arguments of ``puma`` in all files, as lists."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    yield compose["services"]["puma"]["command"]
    for document in (one.values[0] for one in documents()):
        if "entrypoint" in document["spec"]:
            yield document["spec"]["entrypoint"].split()[1:]
        for template in pods(document):
            for container in template["spec"]["containers"]:
                args = container.get("args", [])
                if "puma.cli" in args:
                    yield args[args.index("puma.cli") + 1 :]
                elif container["name"] == "puma":
                    yield args


def test_commands_and_their_options_exist():
    from typer.main import get_command

    from puma.cli.app import app

    given = list(commands())
    assert len(given) == 4
    for line in given:
        command, rest = get_command(app), list(line)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        wanted = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert wanted <= options, line


@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sbatch")), ids=lambda path: path.name)
def test_scripts_are_bash(script, tmp_path):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    checker = shutil.which("shellcheck")
    if checker:
        done = subprocess.run([checker, "-s", "bash", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    options = re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", script.read_text(), re.M)
    assert {"nodes", "gpus-per-node", "requeue"} <= {name for name, _ in options}


def test_the_batch_script_starts_one_launcher_a_node(tmp_path):
    """Run with stand-ins for SLURM's commands: what would be started, with which addresses."""
    for name, body in {"scontrol": "printf 'node7\\nnode8\\n'", "srun": 'printf "%s\\n" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "41", "SLURM_CPUS_PER_TASK": "32"}
    slurm |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NUM_NODES": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    line = ["bash", str(DEPLOY / "slurm" / "train.sbatch")]
    done = subprocess.run([*line, "mini", "--out", "a b"], capture_output=True, text=True, env=slurm)
    words = done.stdout.splitlines()
    assert words[words.index("--nnodes") + 1] == "2"
    assert words[words.index("--nproc-per-node") + 1] == "4"
    assert words[words.index("--rdzv-endpoint") + 1] == "node7:20041"
    assert words[-4:] == ["train", "mini", "--out", "a b"]
    assert subprocess.run(line, capture_output=True, env=slurm).returncode == 2
