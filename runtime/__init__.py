"""A bundle runs: deployed in ONNX Runtime, mirrored in PyTorch."""
