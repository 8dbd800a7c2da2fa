"""Bodies of requests as bytes, for what no client would send."""

from __future__ import annotations

from collections.abc import Callable

import httpx

#: Posts a body to a path of the live server.
Send = Callable[[str, bytes], httpx.Response]
#: A tensor's shape, and its values.
TENSOR = b'{"inputs": [{"name": "input_ids", "shape": %s, "datatype": "INT64", "data": %s}]}'
#: Further settings of a completion.
TEXT = b'{"prompt": "ab", "max_tokens": 2, %s}'
