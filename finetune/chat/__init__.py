"""`finetune chat`: base and tuned model asked the same, side by side."""
