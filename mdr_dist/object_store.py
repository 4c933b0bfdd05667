"""`s3://` for fsspec: s3fs, set up from the environment alone, that says in one line what is wrong.

Every request goes through `ObjectStore._call_s3`. botocore repeats what may pass (no connection, 5xx, throttling) with
growing, random waits; a body that breaks off is read on from there. What stays wrong is a `UserError` that names the
URL and never holds a secret.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientPayloadError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from s3fs import S3File, S3FileSystem
from s3fs.errors import translate_boto_error

from mdr_dist.errors import UserError

CONNECT_SECONDS, READ_SECONDS, LONGEST_WAIT = 10, 60, 20
ATTEMPTS = 6  # some 15 seconds, in the mean, before a store counts as out of reach
CONNECTIONS = 16

_BUCKET = "there is no bucket {bucket!r} at {store}; make it, or correct the URL"
_EXPIRED = "{store} says that the credentials have expired; get new ones, AWS_SESSION_TOKEN included"
_CLOCK = "this machine's clock and that of {store} differ too much; set this machine's (NTP)"
_REGION = "the bucket is in another region than {store} was asked for; set AWS_REGION"
_NOT_S3 = "{store} does not answer as an S3 store does; correct AWS_ENDPOINT_URL"
_WRONG = {
    "NoSuchBucket": _BUCKET,
    "InvalidBucketName": _BUCKET,
    "InvalidAccessKeyId": "{store} does not know the key in AWS_ACCESS_KEY_ID; correct the credentials",
    "SignatureDoesNotMatch": "{store} says that the secret does not fit the key; correct AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "{store} denies access; these credentials need the right to list, read and write there",
    "AllAccessDisabled": "{store} denies all access to this bucket; take another",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": "{store} refuses the token in AWS_SESSION_TOKEN; get new credentials, or unset it",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "301": _REGION,
    "PreconditionFailed": "it was replaced while it was read; start again",
    "400": "{store} refuses the request without saying why; look at the credentials and at AWS_REGION",
}
_UNREACHED = (ConnectionError, HTTPClientError)
_BROKEN_OFF = (*_UNREACHED, ClientPayloadError, IncompleteReadError, FlexibleChecksumError, TimeoutError)


class ObjectStore(S3FileSystem):
    """The S3 store that `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and so on name. It has no folders and no renames.

    Nothing is remembered of what was listed. `UserError` if the store cannot be reached or refuses; what is not there
    is a `FileNotFoundError`.
    """

    _s3: Any  # botocore's client

    def __init__(self) -> None:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        # botocore reads these two itself, but not where the client names others
        retries = {} if "AWS_RETRY_MODE" in os.environ else {"mode": "standard"}
        retries |= {} if "AWS_MAX_ATTEMPTS" in os.environ else {"total_max_attempts": ATTEMPTS}
        super().__init__(
            use_listings_cache=False,
            client_kwargs={"region_name": region} if region else {},
            config_kwargs={
                "retries": retries,
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "max_pool_connections": CONNECTIONS,
            },
        )

    async def _call_s3(self, method: str, *akwarglist: dict[str, Any], **kwargs: Any) -> Any:  # budget: s3fs names them
        try:
            await self.set_session()
        except (BotoCoreError, ValueError) as error:
            raise UserError(f"{_url(kwargs)}: {_one_line(error)}; look at the AWS_ variables") from error
        asked = self._get_s3_method_kwargs(getattr(self._s3, method), *akwarglist, **kwargs)
        answer = await self.answer(method, asked)
        if method == "get_object":
            answer["Body"] = _Body(self, answer, asked)
        return answer

    call_s3 = sync_wrapper(_call_s3)

    def _open(  # pyright: ignore[reportIncompatibleMethodOverride] # budget: s3fs names them
        self, path: str, mode: str = "rb", **kwargs: Any
    ) -> S3File:
        if mode == "wb" and not kwargs.get("autocommit", True):
            return _NewObject(self, path, mode, autocommit=False, block_size=self.default_block_size)
        return super()._open(path, mode, **kwargs)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: s3fs would make the bucket."""

    async def _mkdir(
        self, path: str, acl: Any = False, create_parents: bool = True, **kwargs: Any
    ) -> None:  # budget: s3fs's
        """Nothing: s3fs would make the bucket."""

    makedirs, mkdir = sync_wrapper(_makedirs), sync_wrapper(_mkdir)

    async def _read_range(self, path: str, span: tuple[int, int], *, etag: str) -> bytes:
        """Bytes of an object from the first to before the second; a `UserError` if it is not the one of that `etag`."""
        bucket, key, _ = self.split_path(path)
        asked = {"Range": f"bytes={span[0]}-{span[1] - 1}", "IfMatch": etag}
        answer = await self._call_s3("get_object", Bucket=bucket, Key=key, **asked)
        try:
            return await answer["Body"].read()
        finally:
            answer["Body"].close()

    read_range = sync_wrapper(_read_range)

    async def answer(self, method: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The store's answer to one request."""
        try:
            return await getattr(self._s3, method)(**asked)
        except (ClientError, BotoCoreError, ResponseParserError) as error:
            raise await self._told(error, method, asked) from error

    @property
    def attempts(self) -> int:
        """How often a request is made before it counts as failed."""
        return self._s3.meta.config.retries.get("total_max_attempts", ATTEMPTS)

    async def _told(self, error: Exception, method: str, asked: dict[str, Any]) -> Exception:
        """What to raise for what botocore raised."""
        if not isinstance(error, ClientError):
            return UserError(f"{_url(asked)}: {self._unanswered(error)}")
        code, status = _code(error), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        if method.startswith("head") and code.isdigit() and (code != "404" or method == "head_bucket"):
            code = await self._reason(asked["Bucket"], code)  # an answer to HEAD has no text
        text = _WRONG.get(code, "")
        if status >= 500:
            text = f"{{store}} answers {status} ({code}) to the last of {self.attempts} attempts; try again later"
        elif method.startswith("list") and not text:
            text = _NOT_S3
        if not text:
            return translate_boto_error(error)
        return UserError(f"{_url(asked)}: {text.format(bucket=asked.get('Bucket', ''), store=self._store)}")

    async def _reason(self, bucket: str, code: str) -> str:
        """The code of what the store says of a bucket when it is asked in a way that it can answer."""
        try:
            await self._s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except ClientError as error:
            return _code(error)
        return "AccessDenied" if code == "403" else code

    def _unanswered(self, error: Exception) -> str:
        if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
            return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if isinstance(error, ParamValidationError) and "Invalid bucket name" in str(error):
            return "no bucket can have that name; correct the URL"
        if isinstance(error, ResponseParserError):
            return _NOT_S3.format(store=self._store)
        reason = _one_line(error)
        if isinstance(error, _UNREACHED):
            return f"no answer from {self._store} ({reason}); correct AWS_ENDPOINT_URL, or try again when it is up"
        return reason

    @property
    def _store(self) -> str:
        """The end point, without what stands before its host's name."""
        parts = urlsplit(self._s3.meta.endpoint_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class _NewObject(S3File):
    """An object that is being written. Nothing is left of one that nobody commits."""

    def __del__(self) -> None:
        """Nothing: s3fs would upload the rest, from whichever thread collects the garbage."""


class _Body:
    """What an object's body is read by. Where it breaks off, the rest is asked for anew."""

    def __init__(self, store: ObjectStore, answer: dict[str, Any], asked: dict[str, Any]) -> None:
        self._store, self._asked, self._body = store, asked, answer["Body"]
        self._etag, self._at = answer.get("ETag"), 0

    async def read(self, amount: int | None = None) -> bytes:
        """The next `amount` bytes at most, by default all the rest."""
        for left in reversed(range(self._store.attempts)):
            try:
                data = await self._body.read(amount)
            except _BROKEN_OFF as error:
                self.close()
                if not left:
                    raise UserError(
                        f"{_url(self._asked)}: breaks off again and again ({_one_line(error)}); try again"
                    ) from error
                await self._ask_for_rest(self._store.attempts - left)
            else:
                self._at += len(data)
                return data
        raise AssertionError

    async def _ask_for_rest(self, attempt: int) -> None:
        await asyncio.sleep(random.uniform(0, min(2.0 ** (attempt - 1), LONGEST_WAIT)))  # noqa: S311 no secret
        first, _, last = self._asked.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        same = {"IfMatch": self._etag} if self._etag else {}
        asked = {**self._asked, **same, "Range": f"bytes={int(first) + self._at}-{last}"}
        self._body = (await self._store.answer("get_object", asked))["Body"]

    def close(self) -> None:
        """Let go of the connection."""
        self._body.close()


def _url(asked: dict[str, Any]) -> str:
    """What a request is about."""
    return f"s3://{asked.get('Bucket', '')}/{asked.get('Key', asked.get('Prefix', ''))}".rstrip("/")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _one_line(error: BaseException) -> str:
    """What is behind botocore's error, in a line."""
    cause = getattr(error, "kwargs", {}).get("error") or error
    return " ".join(str(cause).split()) or type(cause).__name__
