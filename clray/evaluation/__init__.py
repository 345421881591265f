"""What a generation can do: tasks, scorers, the score matrix and its metrics."""
