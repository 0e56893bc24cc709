"""A name becomes a torch model: architectures, weights, preprocessing, class names."""
