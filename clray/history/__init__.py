"""Questions to a lineage, and what may be done with it: a module for each command."""
