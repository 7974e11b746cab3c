"""Words for photographs: a retriever whose folder holds an image classifier reads its word beside a photograph."""
