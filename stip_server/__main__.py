"""python -m stip_server"""

import sys

from stip_server.cli import main

sys.exit(main())
