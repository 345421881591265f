"""What a generation gets wrong, and the knowledge that it lacks."""
