"""The model; read hire.py first."""
