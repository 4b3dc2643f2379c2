"""The serving stack: Triton, the gateway in front of it, and the index of shards beside it."""

import os

# Read when grpc is first imported, which is why it stands here. gRPC's event engine hands each event from
# thread to thread: asking four shards took 17 context switches in this process with it, 6 without. How an
# experiment is turned off: grpc's doc/environment_variables.md; one that it does not know is only logged.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")
