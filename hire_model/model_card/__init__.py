"""The model card: what a user of a model must know, generated from the facts of its training."""
