"""A file that some other tool quantized becomes a bundle: what it takes and returns is found in it, or asked for by name."""
