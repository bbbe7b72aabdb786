"""Which stage brings what, and what wrong edges do: many trainings of one recipe, compared. Nothing goes to MLflow."""
