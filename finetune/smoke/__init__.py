"""A recipe proved in seconds: the whole line on a tiny random model of its base's architecture."""
