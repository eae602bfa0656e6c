"""python -m stip_client"""

import sys

from stip_client.cli.main import main

sys.exit(main())
