"""Lets ``python -m jaxperturb`` do what ``jaxperturb`` does."""

from jaxperturb.cli.main import main

if __name__ == "__main__":
    main()
