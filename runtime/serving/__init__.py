"""Serving: SageMaker's hosting contract over HTTP, and batch transform, both by the exported ONNX policy."""
