"""The ONNX graph: written, made smaller, compared with torch."""
