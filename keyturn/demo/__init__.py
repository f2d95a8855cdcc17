"""The demo: the whole chain on one machine, from a recipe to keys, a running app, and every refusal."""
