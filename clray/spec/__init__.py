"""What a person writes: a stream in YAML, checked strictly before anything is spent."""
