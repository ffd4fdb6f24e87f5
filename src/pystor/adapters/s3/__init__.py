"""A bucket that speaks S3 as a storage: blobs under `aa/bb/cc/<64 lowercase hex>`, all else under `.stor/`."""

from pystor.adapters.s3.bucket import Bucket
from pystor.adapters.s3.client import Keys, RequestPolicy

__all__ = ["Bucket", "Keys", "RequestPolicy"]
