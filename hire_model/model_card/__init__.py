"""The model card: what a user of a model must know, rendered from the facts of its training."""
