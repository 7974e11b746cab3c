"""A tiny sentence-transformers model of texts, as a teacher: a BERT of random weights with mean pooling."""

from __future__ import annotations

from pathlib import Path

import torch

WIDTH = 20


def text_model(folder: Path, seed: int = 0) -> Path:
    """Save one; another seed gives other weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *"0123456789"]
    inner = folder / "inner"
    inner.mkdir(parents=True)
    (inner / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(inner / "vocab.txt")).save_pretrained(inner)
    torch.manual_seed(seed)
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=64,
            initializer_range=1.0,  # so that texts lie apart
        )
    ).save_pretrained(inner)
    transformer = modules.Transformer(str(inner), max_seq_length=64)
    model = SentenceTransformer(modules=[transformer, modules.Pooling(WIDTH), modules.Normalize()], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"
