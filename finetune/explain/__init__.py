"""`finetune explain`: a recipe's final values, what they mean, and where each was said."""
