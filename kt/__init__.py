"""Knowledge Translation: compress a trained network by translating its weights.

Sun et al., "Knowledge Translation: A New Pathway for Model Compression", arXiv 2401.05772.
Tensors in, tensors out: this package reads no parameter file and prints nothing.
"""
