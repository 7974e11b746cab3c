"""From items to vectors: which go through the model together, and the forward passes."""
