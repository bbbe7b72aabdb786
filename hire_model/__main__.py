"""Run the command `hire` with `python -m hire_model`."""

from hire_model.cli.main import run

if __name__ == "__main__":
    run()
