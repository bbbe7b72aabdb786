"""`python -m hire_model` is the command `hire`."""

from hire_model.cli.main import run

if __name__ == "__main__":
    run()
