"""What is wrong with this machine before a job starts? Facts, judged line by line, each with its remedy."""
