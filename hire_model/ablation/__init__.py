"""Train variants of one recipe and compare them: stages on and off, and wrong edges. Nothing goes to MLflow."""
