"""What is remembered: generations, their keys, the store they lie in and the MLflow ledger."""
