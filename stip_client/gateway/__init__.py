"""The gateway: an HTTP server on this machine that speaks OpenAI's API, over an AsyncClient.

Applications send it text. It embeds and permutes the text in its own process, so only what any
STIP client sends leaves the machine. Needs the extra `gateway`: pydantic, Starlette and uvicorn.
Nothing else in the client imports those.
"""
