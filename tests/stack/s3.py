"""The few S3 calls the stack itself needs, signed by hand (AWS Signature Version 4)."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import urllib.error
import urllib.request
from urllib.parse import urlsplit

REGION = "us-east-1"
ACCESS_KEY = "stackaccess"
SECRET_KEY = "stacksecret"


def create_bucket(endpoint: str, bucket: str) -> None:
    """Creates a bucket; one that is there already is left as it is."""
    status, body = _request("PUT", endpoint, f"/{bucket}")
    if status not in (200, 409):
        raise OSError(f"creating bucket {bucket}: HTTP {status} {body[:300]}")


def list_buckets(endpoint: str) -> int:
    """The status of a signed ListBuckets: 200 once the server accepts our keys."""
    return _request("GET", endpoint, "/")[0]


def _request(method: str, endpoint: str, path: str) -> tuple[int, str]:
    now = datetime.datetime.now(datetime.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    empty = hashlib.sha256(b"").hexdigest()
    headers = {
        "host": urlsplit(endpoint).netloc,
        "x-amz-content-sha256": empty,
        "x-amz-date": stamp,
    }
    signed = ";".join(headers)
    lines = "".join(f"{key}:{value}\n" for key, value in headers.items())
    canonical = f"{method}\n{path}\n\n{lines}\n{signed}\n{empty}"
    scope = f"{day}/{REGION}/s3/aws4_request"
    to_sign = "\n".join(
        ["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope},"
        f"SignedHeaders={signed},Signature={signature}"
    )
    request = urllib.request.Request(endpoint + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
