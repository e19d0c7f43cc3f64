import asyncio

import pytest

from flowyard.platform.http.gate import Gate


@pytest.mark.parametrize(
    ("path", "method", "inference", "management"),
    [
        ("/ping", "GET", True, False),
        ("/ping/x", "GET", True, False),
        ("/pings", "GET", False, True),
        ("/predictions", "POST", True, False),
        ("/predictions/m/v1", "POST", True, False),
        ("/predictions/m/\n", "POST", True, False),
        ("/invocations", "POST", True, False),
        ("/v1/chat/completions", "POST", True, False),
        ("/v1/models", "GET", False, True),
        ("/models/m/invoke", "POST", True, False),
        ("/models/m/invoke/", "POST", True, False),
        ("/models/m", "GET", False, True),
        ("/models", "POST", False, True),
        ("/workflows/ping", "GET", False, True),
        ("/v2/models/m/infer", "POST", False, True),
        ("/schema", "GET", False, True),
        ("/", "OPTIONS", True, True),
        ("/traces/x", "GET", True, True),
        ("/traces", "GET", False, True),
        ("/", "GET", False, True),
        ("//models", "GET", False, True),
    ],
)
def test_each_address_serves_its_own(path, method, inference, management):
    for serves, expected in (("inference", inference), ("management", management)):
        seen = []

        async def app(scope, receive, send, seen=seen):
            seen.append(scope)

        scope = {"type": "http", "path": path, "raw_path": path.encode(), "method": method}
        asyncio.run(Gate(app, serves)(scope, None, None))
        assert (seen[0] is scope) is expected
        assert seen[0]["path"] == (path if expected else "/not-served-at-this-address")
