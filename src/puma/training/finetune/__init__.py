"""Fine-tuning a retriever on a table of pairs: reading, splitting, training, and telling what it brought."""
