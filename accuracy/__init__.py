"""Every method on small tasks with known accuracies: `make accuracy`, results in bench/results/accuracy.jsonl."""
