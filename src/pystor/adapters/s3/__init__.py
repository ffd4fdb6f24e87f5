"""A bucket that speaks S3 as a storage: blobs under `aa/bb/cc/<64 lowercase hex>`, all else under `.stor/`."""

from pystor.adapters.s3.bucket import Bucket
from pystor.adapters.s3.replica import BucketReplica
from pystor.adapters.s3.staged import StagedObject
from pystor.address import BucketAddress, parse_bucket_url

__all__ = ["Bucket", "BucketAddress", "BucketReplica", "StagedObject", "parse_bucket_url"]
