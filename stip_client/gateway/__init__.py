"""The gateway: an HTTP server on this machine that speaks OpenAI's API over an AsyncClient.

Applications send it text; embedding and permuting happen in its process, so that what leaves the
machine is what any STIP client sends. Needs the extra `gateway` (Starlette and uvicorn), which
nothing else of the client imports.
"""
