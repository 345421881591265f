"""The evolve stage: exams, mistakes, the knowledge they lack, and the set that a round is trained on (CEM)."""
