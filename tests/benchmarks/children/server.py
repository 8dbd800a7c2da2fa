"""sentence-transformers behind a server, in its own environment: `server.py WAY MODEL PORT`.

Run by its path: neither this project nor anything of it is installed there. Each way is written as its documentation
begins, and answers `/v1/embeddings` as OpenAI's protocol has it.
"""

from __future__ import annotations

import sys
from typing import Any

try:
    from litserve import LitAPI
except ModuleNotFoundError:  # for type checkers, which have another environment
    LitAPI = object

_PATH = "/v1/embeddings"
_BATCH, _PATIENCE = 32, 0.002


def fastapi(model: str, port: int) -> None:
    """One call of the model for each request, in FastAPI's threads."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu")
    app = FastAPI()

    class Request(BaseModel):
        input: str
        model: str

    def embed(request: Request) -> dict[str, Any]:
        return _answer(encoder.encode(request.input))

    embed.__annotations__["request"] = Request  # which is known in here only
    app.post(_PATH)(embed)
    uvicorn.run(app, port=port)


class Encoder(LitAPI):  # type: ignore[misc]  # litserve is in that environment alone
    """LitServe's batches. Its worker processes find it by its name, so it stands at the top."""

    def setup(self, device: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.encoder = SentenceTransformer(sys.argv[2], device=device)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation would be read as a schema
        return request["input"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, batch: list[str]) -> Any:
        return self.encoder.encode(batch, batch_size=_BATCH)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        return _answer(output)


def litserve(model: str, port: int) -> None:
    """LitServe's batches, of 32 at most, for which it waits 2 ms."""
    from litserve import LitServer

    api = Encoder(max_batch_size=_BATCH, batch_timeout=_PATIENCE, api_path=_PATH)
    LitServer(api, accelerator="cpu").run(port=port, generate_client_file=False)


def _answer(vector: Any) -> dict[str, Any]:
    return {"data": [{"embedding": vector.tolist(), "index": 0}]}


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": litserve}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
