"""`finetune import`: configurations of other toolkits as recipes, with everything named that has no equivalent."""
