"""Ray Data: sources -> records -> tokens -> packed shards; mixtures."""
