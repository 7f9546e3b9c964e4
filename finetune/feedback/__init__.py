"""Served conversations that people have judged: from logs to screened rows, and versions of such data."""
