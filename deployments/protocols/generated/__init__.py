"""Messages and stubs of the gRPC services, generated from proto/ by `python -m scripts.generate_protos`.

The messages live in a descriptor pool of their own. In the default pool, which a process has once, they would collide
with the same full names of tritonclient or tensorflow-serving-api, and whichever came second could not be imported.
Requests and answers can be pickled, as Serve's proxies do; messages nested in another's definition cannot, since
protobuf looks these up in the default pool.
"""

from google.protobuf import any_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
for _known in (any_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_known.DESCRIPTOR.serialized_pb)
