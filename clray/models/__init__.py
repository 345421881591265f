"""What is trained: base models, adapters, attention masks and the target projection."""
