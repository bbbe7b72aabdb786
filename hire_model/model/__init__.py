"""The model. Start with hire.py; each stage has its own file."""
