"""An object store on the loopback that speaks as S3, Google Cloud Storage (both in XML) and Azure Blob Storage do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

WHEN = "Thu, 01 Jan 2026 00:00:00 GMT"
#: Objects on a page of a list: few, so that tests see several pages.
PAGE = 2

_S3_ITEM = (
    '<Contents><Key>{}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"x"</ETag></Contents>'
)
_S3_LIST = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{items}</ListBucketResult>"""
_AZURE_ITEM = (
    f"<Blob><Name>{{}}</Name><Properties><Last-Modified>{WHEN}</Last-Modified><Etag>0x1</Etag>"
    "<Content-Length>{}</Content-Length><Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
)
_AZURE_LIST = """<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults><Blobs>{items}</Blobs><NextMarker>{token}</NextMarker></EnumerationResults>"""


class ObjectServer:
    """Answers reads of objects and lists of buckets.

    Attributes:
        objects: Contents by bucket and key.
        statuses: What is answered instead, by bucket and key; the key is empty for the list.
        requests: The target and headers of every request.
        account: First folder of every path, as an emulator of Azure has it; empty for none.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.statuses: dict[tuple[str, str], int] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.account = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                store.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, body = store.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Last-Modified", WHEN)
                self.send_header("ETag", '"0x1"')
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer(self, target: str) -> tuple[int, bytes]:
        parts = urlsplit(target)
        path = unquote(parts.path).removeprefix(f"/{self.account}" if self.account else "")
        bucket, _, key = path.removeprefix("/").partition("/")
        if (bucket, key) in self.statuses:
            return self.statuses[bucket, key], b"<Error/>"
        if not key and bucket in {known for known, _ in self.objects}:
            return 200, self._list(bucket, {name: values[0] for name, values in parse_qs(parts.query).items()})
        found = self.objects.get((bucket, key))
        return (404, b"<Error/>") if found is None else (200, found)

    def _list(self, bucket: str, query: dict[str, str]) -> bytes:
        is_azure = query.get("comp") == "list"
        after = query.get("marker" if is_azure else "continuation-token", "")
        keys = sorted(key for known, key in self.objects if known == bucket and key.startswith(query.get("prefix", "")))
        left = [key for key in keys if key > after]
        item = _AZURE_ITEM if is_azure else _S3_ITEM
        items = "".join(item.format(escape(key), len(self.objects[bucket, key])) for key in left[:PAGE])
        token = escape(left[PAGE - 1]) if len(left) > PAGE else ""
        if is_azure:
            return _AZURE_LIST.format(items=items, token=token).encode()
        more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        return _S3_LIST.format(items=items, token=more, more=str(bool(token)).lower()).encode()

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def object_server() -> Iterator[ObjectServer]:
    server = ObjectServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
