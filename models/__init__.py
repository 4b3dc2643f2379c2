"""What Farshore serves, as data: recipes, evaluation data, Triton models, and the manifest contract."""
