"""Retrievers by their hub names, from stand-ins for the hub's cache and for the hub; uploads; model cards."""

import json
import re
import shutil
import socket
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard, constants

from puma.cli import main
from puma.errors import InputError, ModelError
from puma.pruning import prune_folder
from puma.pruning.cards import cached_name, front_matter, inherited_metadata, read_metadata
from puma.retriever.model import Retriever
from support import hub

COMMITS = ("1" * 40, "2" * 40)
LICENSED = {"license": "other", "license_name": "tiny-research", "license_link": "LICENSE", "language": ["en", "de"]}
ITEMS = ["a red fox", "blue"]


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """The same retriever with two layers and with one."""
    folder = tmp_path_factory.mktemp("retrievers")
    made = {}
    for name, layers in (("main", 2), ("v1", 1)):
        made[name] = Retriever.from_base(base, layers=layers, prompt="short", device="cpu")
        made[name].save_pretrained(folder / name)
    return {name: folder / name for name in made}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and no way to the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    return tmp_path / "hub"


def vectors(name, **options):
    return Retriever.from_pretrained(name, device="cpu", **options).encode(ITEMS)


def test_a_hub_name_is_read_from_the_cache_without_the_network(folders, cache, tmp_path, monkeypatch, capsys):
    hub.cache_snapshot(cache, "org/tiny", folders["main"], COMMITS[0], "main")
    hub.cache_snapshot(cache, "org/tiny", folders["v1"], COMMITS[1], "v1")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(vectors("org/tiny"), vectors(folders["main"]))
    np.testing.assert_array_equal(vectors("org/tiny", revision="v1"), vectors(folders["v1"]))
    np.testing.assert_array_equal(vectors("org/tiny", revision=COMMITS[1]), vectors(folders["v1"]))
    with pytest.raises(ModelError, match=r"org/tiny at v2 is neither .* HF_HUB_OFFLINE is set"):
        vectors("org/tiny", revision="v2")
    with pytest.raises(InputError, match="revision='v1': goes with a name on the hub"):
        vectors(folders["main"], revision="v1")

    (tmp_path / "texts.txt").write_text("\n".join(ITEMS))
    assert main(["embed", "texts.txt", "--out", "v.npz", "--model", "org/tiny"]) == 0
    with np.load("v.npz") as found:
        embedded = next(found[key] for key in found.files if found[key].ndim == 2)
    np.testing.assert_allclose(embedded, vectors(folders["main"]), atol=1e-6)
    capsys.readouterr()
    assert main(["embed", "texts.txt", "--out", "w.npz", "--model", "org/other"]) == 2
    assert "HF_HUB_OFFLINE is set; unset it" in capsys.readouterr().err


def test_a_private_repository_is_fetched_once_with_its_token(folders, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub.serving("org/tiny", folders, token="hf_right") as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        for token in (None, "hf_wrong"):
            with pytest.raises(ModelError, match="org/tiny"):
                vectors("org/tiny", token=token)
        np.testing.assert_array_equal(vectors("org/tiny", token="hf_right"), vectors(folders["main"]))
        with pytest.raises(ModelError, match="org/tiny"):
            vectors("org/tiny", token="hf_right", revision="v2")
        np.testing.assert_array_equal(vectors("org/tiny", token="hf_right", revision="v1"), vectors(folders["v1"]))
        fetched = [path for path in asked if path.endswith("model.safetensors")]
        asked.clear()
        assert Retriever.from_pretrained("org/tiny", device="cpu", token="hf_right").about == {}
        assert fetched
        assert not [path for path in asked if path.endswith("model.safetensors")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(vectors("org/tiny"), vectors(folders["main"]))


class FakeHub:
    """What ``HfApi`` would be asked to do, and the files that would lie on the hub."""

    def __init__(self, place, *, public=False, fails=None):
        self.place, self.public, self.fails, self.calls = place, public, fails, []

    def __call__(self, token=None):
        self.token = token
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create_repo", repo_id, private, exist_ok))
        name = repo_id if "/" in repo_id else f"me/{repo_id}"

        class Address(str):
            __slots__ = ()
            repo_id = name

        return Address(f"https://hub.example/{name}")

    def repo_info(self, repo_id):
        return SimpleNamespace(private=not self.public)

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.calls.append(("create_branch", repo_id, branch))

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, delete_patterns):
        if self.fails:
            raise self.fails
        shutil.copytree(folder_path, self.place)
        self.calls.append(("upload_folder", repo_id, revision))


@pytest.fixture
def online(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_what_is_uploaded_is_what_is_saved(folders, online, tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "there")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    retriever = Retriever.from_pretrained(folders["main"], device="cpu")
    retriever.about = {"base_model": "org/base", "license": "apache-2.0"}
    assert retriever.push_to_hub("mine", private=True, token="hf_x", revision="v1") == "https://hub.example/me/mine"
    assert fake.token == "hf_x"
    assert fake.calls == [
        ("create_repo", "mine", True, True),
        ("create_branch", "me/mine", "v1"),
        ("upload_folder", "me/mine", "v1"),
    ]
    np.testing.assert_array_equal(vectors(tmp_path / "there"), vectors(folders["main"]))
    card = ModelCard((tmp_path / "there" / "README.md").read_text())
    assert card.data.base_model == "org/base"
    assert 'Retriever.from_pretrained("me/mine")' in card.text
    assert 'SentenceTransformer("me/mine")' in card.text


def test_an_upload_that_cannot_be_says_why_and_sends_nothing(folders, online, tmp_path, monkeypatch):
    retriever = Retriever.from_pretrained(folders["main"], device="cpu")
    fake = FakeHub(tmp_path / "there", public=True)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    with pytest.raises(InputError, match=r"token=None: to upload to 'org/mine' .*set HF_TOKEN, or run `hf auth login`"):
        retriever.push_to_hub("org/mine")
    for name in ("a/b/c", "", "../up", "org/mine model"):
        with pytest.raises(InputError, match="give the name of a repository"):
            retriever.push_to_hub(name, token="hf_x")
    assert fake.calls == []
    with pytest.raises(InputError, match="private=True: org/mine is there already and public"):
        retriever.push_to_hub("org/mine", private=True, token="hf_x")
    fake.fails = OSError("403 Forbidden: you must have write access\nRequest ID: 7")
    with pytest.raises(ModelError, match=r"'org/mine': cannot be uploaded: 403 Forbidden: you must have write access$"):
        retriever.push_to_hub("org/mine", token="hf_x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        retriever.push_to_hub("org/mine", token="hf_x")
    assert not (tmp_path / "there").exists()


def test_a_stored_token_is_enough(folders, online, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub(tmp_path / "there"))
    monkeypatch.setenv("HF_TOKEN", "hf_stored")
    Retriever.from_pretrained(folders["main"], device="cpu").push_to_hub("org/mine")
    assert (tmp_path / "there" / "config.json").is_file()


# ---- cards


def licensed(base, folder):
    shutil.copytree(base, folder)
    (folder / "README.md").write_text(front_matter({**LICENSED, "pipeline_tag": "any-to-any"}) + "# Tiny\n")
    return folder


def test_a_card_names_base_licence_and_language_from_the_base_on(base, cache, tmp_path):
    hub.cache_snapshot(cache, "org/tiny-base", licensed(base, tmp_path / "base"), COMMITS[0], "main")
    origin = {"base_model": "org/tiny-base", **LICENSED}
    made = Retriever.from_base("org/tiny-base", layers=1, prompt="short", device="cpu")
    assert made.about == origin
    saved = made.save_pretrained(tmp_path / "model")
    again = Retriever.from_pretrained(saved, device="cpu").save_pretrained(tmp_path / "again")
    for folder in (saved, again):
        card = ModelCard((folder / "README.md").read_text())
        about = card.data.to_dict()
        assert {key: about[key] for key in origin} == origin
        assert about["base_model_relation"] == "finetune"
        assert about["library_name"] == "sentence-transformers"
        assert about["pipeline_tag"] == "sentence-similarity"
        assert {"puma", "multimodal-retrieval"} <= set(about["tags"])
        assert "made of org/tiny-base" in card.text
    prune_folder("org/tiny-base", tmp_path / "pruned", 2)
    card = ModelCard((tmp_path / "pruned" / "README.md").read_text())
    about = card.data.to_dict()
    assert {key: about[key] for key in origin} == origin
    assert (about["library_name"], about["pipeline_tag"]) == ("transformers", "any-to-any")
    assert "2 of 4 decoder layers" in card.text
    assert Retriever.from_base(tmp_path / "pruned", prompt="short", device="cpu").about == origin


def test_what_is_not_known_is_left_out(base, folders, tmp_path):
    about = ModelCard((folders["main"] / "README.md").read_text()).data.to_dict()
    assert set(about) == {"library_name", "pipeline_tag", "tags"}
    foreign = licensed(base, tmp_path / "foreign")
    (foreign / "README.md").write_text(front_matter({"base_model": "org/older", "license": "mit"}))
    assert inherited_metadata(foreign) == {"license": "mit"}  # what a base was made of is not what we make ours of
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps({**config, "_name_or_path": "org/base"}))
    assert inherited_metadata(foreign) == {"base_model": "org/base", "license": "mit"}


@pytest.mark.parametrize("text", ["", "# no head", "---\nlicense: [\n---\n", "---\n- a\n---\n", "---\nlicense: mit\n"])
def test_a_card_that_cannot_be_read_says_nothing(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    assert read_metadata(tmp_path) == {}
    assert inherited_metadata(tmp_path) == {}


def test_names_of_snapshots(tmp_path):
    assert cached_name(tmp_path / "models--org--my-model.v1" / "snapshots" / COMMITS[0]) == "org/my-model.v1"
    assert cached_name(tmp_path / "models--gpt2" / "snapshots" / COMMITS[0]) is None
    assert cached_name(tmp_path / "models--org--name") is None


def test_the_cards_example_for_transformers_gives_the_same_vector(base, tmp_path, monkeypatch):
    retriever = Retriever.from_base(base, layers=2, prompt="short", device="cpu")
    folder = retriever.save_pretrained(tmp_path / "this-folder")
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
    example = blocks[0][blocks[0].index("import torch") :]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example, names)
    np.testing.assert_allclose(names["vector"].detach().numpy(), retriever.encode("a red fox"), atol=1e-5)
