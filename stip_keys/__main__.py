"""python -m stip_keys"""

import sys

from stip_keys.cli import main

sys.exit(main())
