"""From a trained adapter to a bundle: merge, parity (the proof), bundle (files and manifest)."""
