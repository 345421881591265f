"""How a stage trains: schedule, objective, DeepSpeed engine, loop, and its launch on Ray Train."""
