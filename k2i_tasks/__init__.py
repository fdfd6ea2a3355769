"""K2I for Python: Kafka topics into Apache Iceberg tables, each row exactly once."""

import os

__version__ = "0.1.0"

# Before pyarrow is loaded, which reads it once. With the C library's allocator the same ingest
# peaks some 45 MB lower and takes a little less CPU than with Arrow's own default. An operator's
# choice stays.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
