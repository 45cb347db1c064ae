"""`python -m dreambooth train subject=dog` is `dreambooth train subject=dog`."""

from dreambooth.cli.console import main

if __name__ == "__main__":
    main()
