"""What a recipe takes in memory, time and money, worked out from configurations before anything is loaded."""
