"""Where the embedding is read: the last attended position, which is ``[RET]``. One definition for encoder, teacher and
losses."""

from __future__ import annotations

import torch


def last_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """The last attended position of each row, int64 [n], under left or right padding; ``attention_mask`` as
    :func:`last_token_state` takes it."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * positions).argmax(1)


def last_token_state(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The hidden state at the last attended position, under left or right padding.

    Args:
        hidden: [n, length, dim].
        attention_mask: [n, length], 1 where attended.

    Returns:
        [n, dim].
    """
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last_positions(attention_mask)]
