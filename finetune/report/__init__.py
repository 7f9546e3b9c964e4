"""What a run came to, on one page for people; runs listed and compared."""
