"""`python -m dreambooth.tokens model=sd15` is `dreambooth tokens model=sd15`."""

import sys

from dreambooth.cli.console import main

if __name__ == "__main__":
    sys.argv.insert(1, "tokens")
    main()
