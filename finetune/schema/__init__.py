"""JSON Schema of recipes and data templates, from the models that check them: for editors, and for `finetune explain`."""
