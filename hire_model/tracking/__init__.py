"""All code that uses MLflow: runs, registered versions, promotion. No other package imports MLflow."""
