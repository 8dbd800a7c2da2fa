"""Entry point of `python -m optimum_core.cli`, for systems where the command is not on PATH."""

from optimum_core.cli import main

if __name__ == "__main__":
    main()
