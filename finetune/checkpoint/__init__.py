"""Checkpoints: folders, files and tensors. Knows nothing of training."""
