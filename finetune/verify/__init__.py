"""Is what is being served the model that was trained and evaluated? Golden samples, asked of a server or a folder."""
