"""Train variants of a recipe and compare them: stages on and off, and wrong edges. Nothing is logged to MLflow."""
