"""A torch model becomes a bundle: model sources, ONNX export and tap, QDQ quantization, manifest."""
