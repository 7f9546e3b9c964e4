"""Is the tuned model better than the base: generate (answers), metrics (pure functions), gate."""
