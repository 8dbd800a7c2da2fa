"""A server of accelerated models, in the protocols that clients speak already: OpenAI, TEI and Open Inference.

A request goes from an endpoint (`protocols`) to a served model (`serving`), which prepares its inputs in a thread. They
wait in the `batcher`, where all that has come while the model was busy is the next batch; texts to be written wait in
the `writer`, which takes a token of each in turn. The answer goes back by the endpoint's protocol.

    application    the ASGI application: endpoints, start and end
    ray            the same on many machines, with Ray Serve
    settings       flags, environment and YAML, as one checked structure
    command        the verb `optimum-core serve`
    serving        a model by its name: opened or accelerated, and its answers
    abilities      what an opened model can be asked for
    opener         the thread in which models are opened
    lifetime       the first text of a model, and what waits at its end
    tokenizing     texts of many requests in one call of a tokenizer
    batcher        batches of what waits, by length
    writer         several texts at once, token by token
    group          those of them that the backend batches
    connections    deadlines of connections
    endpoints      the table of paths; reading of requests within limits; errors
    protocols      the paths, requests and answers of each protocol
    errors         errors with a status
    metrics        counters and times for Prometheus
    monitoring     shapes of calls, truth and drift; models tuned for their traffic
    bundling       one archive for places without a package index
    tracing        traces of OpenTelemetry
    logs           one line of JSON for each request
    openapi        the description of all endpoints
"""

from __future__ import annotations

from optimum_serve.application import create_app
from optimum_serve.settings import ModelSettings, Settings
from optimum_serve.version import __version__

__all__ = ["ModelSettings", "Settings", "__version__", "create_app"]
