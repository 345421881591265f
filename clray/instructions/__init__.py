"""What instructions are about: their embeddings, their tags, and how far two stages' instructions lie apart."""
