"""Adding ``[RET]`` to a base: its token, its row of the embeddings, and the chat template that ends in it."""

from __future__ import annotations

from typing import Any

import torch

from puma.retriever.prompts import RET, PromptFormat, control_tokens


def add_ret_token(model: Any, processor: Any, prompt: PromptFormat) -> int:
    """Add ``[RET]`` to tokenizer, chat template and embeddings; its row starts from ``prompt.seed``'s last token.

    Returns:
        The token's id.
    """
    tokenizer = processor.tokenizer
    tokenizer.add_tokens([RET], special_tokens=True)
    tokenizer.padding_side = "right"
    ret_id = tokenizer.convert_tokens_to_ids(RET)
    table = model.get_input_embeddings()
    if ret_id >= table.weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = model.get_input_embeddings()
    with torch.no_grad():
        seed = tokenizer(prompt.seed, add_special_tokens=False)["input_ids"] if prompt.seed else []
        table.weight[ret_id] = (
            table.weight[seed[-1]] if seed else table.weight[:ret_id].float().mean(0).to(table.weight.dtype)
        )
    processor.chat_template = prompt.chat_template(control_tokens(processor))
    tokenizer.chat_template = None
    return int(ret_id)
