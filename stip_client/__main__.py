"""python -m stip_client"""

import sys

from stip_client.cli import main

sys.exit(main())
