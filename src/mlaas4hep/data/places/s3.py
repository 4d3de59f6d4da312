"""Files behind ``s3://bucket/key``: botocore finds credentials and signs, our own HTTP carries the bytes.

Credentials, region and endpoint come from where every S3 tool looks (``AWS_...`` variables, ``~/.aws``, instance roles;
``AWS_ENDPOINT_URL``, ``AWS_PROFILE``); ``AWS_NO_SIGN_REQUEST=yes`` reads public buckets without any. The only module
that knows botocore. Invariant: a signature is made for one request and is never seen outside it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mlaas4hep.config.addresses import shown
from mlaas4hep.data.places import Place
from mlaas4hep.data.places.http import HttpRemote
from mlaas4hep.data.places.listing import Entry, expand_address
from mlaas4hep.data.places.persist import ask
from mlaas4hep.data.places.remote import Failed, Replica
from mlaas4hep.data.places.steady import SteadyPlace
from mlaas4hep.errors import DataError, MissingExtraError

# A signature is used at once; clocks differ by some minutes.
_VALID_S = 900
_TRUE = frozenset({"1", "yes", "true", "on"})
_USUAL = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws/credentials"


class S3Files:
    """Objects of S3 stores; folders and wild cards over their keys."""

    def open(self, url: str) -> Place:
        """See `mlaas4hep.data.places.PlaceKind.open`."""
        return SteadyPlace([self.replica(url)])

    def replica(self, url: str) -> Replica:
        """See `mlaas4hep.data.places.remote.RemoteKind.replica`."""
        access = S3Access(url)
        return Replica(access.url, lambda stall_s: HttpRemote(access, stall_s))

    def expand(self, pattern: str) -> tuple[str, ...]:
        """See `mlaas4hep.data.places.PlaceKind.expand`."""
        return expand_address(pattern, _list_folder, is_folder=None)

    def key(self, url: str) -> object:
        """Bucket and key."""
        return "s3", *_bucket_and_key(url)


class S3Access:
    """One object, with a fresh signature for each request.

    Parameters
    ----------
    url
        Its address.
    operation, asked
        What is asked of the object, in botocore's words; by default it is read, and written where the method is PUT.

    Raises
    ------
    DataError
        No bucket or key.
    """

    def __init__(self, url: str, *, operation: str = "", asked: Mapping[str, Any] | None = None) -> None:
        self.url = shown(url)
        self._whole = url
        self._bucket, self._key = _bucket_and_key(url)
        self._operation, self._asked = operation, dict(asked or {})
        if not self._key:
            raise DataError(f"{self.url}: names no object; write s3://bucket/key")

    def of(self, operation: str, asked: Mapping[str, Any] | None = None) -> S3Access:
        """The same object, to ask something else of it."""
        return S3Access(self._whole, operation=operation, asked=asked)

    def address(self, method: str) -> tuple[str, Mapping[str, str]]:
        """See `mlaas4hep.data.places.wire.Access.address`."""
        client = _client(self._bucket)
        _require_credentials(client)
        asked = {"Bucket": self._bucket, "Key": self._key, **self._asked}
        # What S3 does not know (PROPFIND, of an empty file) it refuses, which is an answer too.
        operation = self._operation or ("put_object" if method == "PUT" else "get_object")
        signed: str = client.generate_presigned_url(operation, Params=asked, ExpiresIn=_VALID_S)
        return signed, {}

    def refused(self, status: int, headers: Mapping[str, str]) -> Failed:
        """See `mlaas4hep.data.places.wire.Access.refused`; a bucket in another region says in which."""
        region = headers.get("x-amz-bucket-region")
        if region and _regions.get(self._bucket) != region and status in (301, 307, 400):
            _regions[self._bucket] = region
            return Failed(f"the bucket lies in the region {region}")
        who = "without credentials (AWS_NO_SIGN_REQUEST)" if _is_anonymous() else "with the credentials found"
        return Failed(f"is not open to us {who} (HTTP {status})", again=False)


_regions: dict[str, str] = {}
_lock = threading.Lock()


def _client(bucket: str) -> Any:
    names = ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION",
             "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE",
             "AWS_SHARED_CREDENTIALS_FILE")  # fmt: skip
    region = _regions.get(bucket) or os.environ.get("AWS_REGION")
    with _lock:
        return _new_client(os.getpid(), region, _is_anonymous(), tuple(os.environ.get(name) for name in names))


@lru_cache(maxsize=16)
def _new_client(process: int, region: str | None, anonymous: bool, environment: tuple[str | None, ...]) -> Any:
    """A client for one state of the environment; tenths of a second to make."""
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise MissingExtraError("botocore", "s3", "reading s3:// files") from error
    config = Config(
        signature_version=UNSIGNED if anonymous else "s3v4",
        connect_timeout=10,
        read_timeout=30,
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = botocore.session.get_session()
        chosen = region or session.get_config_variable("region") or "us-east-1"
        return session.create_client("s3", region_name=chosen, config=config)
    except BotoCoreError as error:
        raise DataError(f"S3 cannot be used: {_words(error)}") from error


def _require_credentials(client: Any) -> None:
    if not _is_anonymous() and client._request_signer._credentials is None:
        raise Failed(
            f"no credentials for S3 are found ({_USUAL}); AWS_NO_SIGN_REQUEST=yes reads public buckets without",
            again=False,
        )


def _is_anonymous() -> bool:
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in _TRUE


def _bucket_and_key(url: str) -> tuple[str, str]:
    # Not by urlsplit: a key may hold ? and #.
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def _list_folder(url: str) -> list[Entry]:
    bucket, prefix = _bucket_and_key(url)
    found: list[Entry] = []
    more: dict[str, str] = {}
    while True:
        asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", **more}
        page = ask(url, "cannot be listed", lambda stall_s, asked=asked: _page(bucket, asked))  # type: ignore[misc]
        found += [Entry(one["Prefix"][len(prefix) :].rstrip("/"), True) for one in page.get("CommonPrefixes", ())]
        found += [Entry(one["Key"][len(prefix) :], False) for one in page.get("Contents", ()) if one["Key"] != prefix]
        if not page.get("IsTruncated"):
            return found
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _page(bucket: str, asked: Mapping[str, str]) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    client = _client(bucket)
    _require_credentials(client)
    try:
        return client.list_objects_v2(**asked)
    except ClientError as error:
        told = error.response
        status = int(told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        region = told.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        if region and _regions.get(bucket) != region and status in (301, 400):
            _regions[bucket] = region
            raise Failed(f"the bucket lies in the region {region}") from error
        code = str(told.get("Error", {}).get("Code", ""))
        raise Failed(f"the store answered {code} (HTTP {status})", again=status >= 500) from error
    except BotoCoreError as error:
        raise Failed(_words(error)) from error


def _words(error: Exception) -> str:
    """botocore's messages hold addresses with what we asked, never the key that signs; shortened all the same."""
    return re.sub(r"\?\S*", "?...", " ".join(str(error).split()))[:200]
