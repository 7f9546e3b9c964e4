"""Parameter-efficient fine-tuning for vertical-industry language models."""

__version__ = "0.1.0"
