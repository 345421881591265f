"""What `clray doctor` looks at before anything is spent: driver, nodes, storage, tracking, resources."""
