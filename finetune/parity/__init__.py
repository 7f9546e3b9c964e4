"""The same few steps of a recipe on several devices, compared: losses, logits, gradients, the first module that differs."""
