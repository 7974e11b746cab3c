"""The retriever: a pruned multimodal LLM with ``[RET]``, its prompt, its batches and its folder."""
