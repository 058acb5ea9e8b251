"""`python -m console`: the `hookline` command."""

from console.main import main

if __name__ == "__main__":
    main()
