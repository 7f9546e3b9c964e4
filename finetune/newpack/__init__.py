"""`finetune new pack`: template, recipes and page of a new industry's task, from a file of sample rows."""
