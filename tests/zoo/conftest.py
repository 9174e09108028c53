"""What needs the extra "zoo": models and trainers of other packages. `make zoo` runs it, `make test` does not look here.

A test of another package than transformers begins with `pytest.importorskip`. Models are made of tiny configurations: nothing
is downloaded.
"""

import os
from importlib.util import find_spec

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
collect_ignore_glob = [] if find_spec("transformers") else ["test_*.py"]
