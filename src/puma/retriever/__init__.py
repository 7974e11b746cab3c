"""From a base to a retriever: loading, the limits of processors, decoding for them."""
