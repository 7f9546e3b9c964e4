"""`finetune carry`: what recipes need, to be carried to a machine without a network."""
