"""Small complete programs that use sparse_ext as anyone would: `python -m examples.demo`."""
