"""A retriever as two ONNX graphs: writing them with torch, and embedding with onnxruntime alone."""
