"""Small models that stand in for a large one: students of some of its layers, and static students."""
