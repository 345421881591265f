"""Which of the past is shown again, and how much of it. Pure functions on indices."""
