"""edged: anomaly detection at the edge. Watches folders, scores pictures with ONNX models, exposes metrics."""

__version__ = "0.1.0"
