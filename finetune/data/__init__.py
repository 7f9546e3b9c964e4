"""From files to trained tokens: source (rows), template (messages), chat (ids and labels), split."""
